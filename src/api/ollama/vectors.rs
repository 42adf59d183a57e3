//! Vectors on their way from the engine to the client: base64 of little-endian floats becomes JSON numbers (decision
//! 0020). They are decoded one by one into the same buffer and written straight into the answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::json::Text;

/// A length below which a vector counts as this long, so that a vector of zeros stays one.
const SHORTEST: f64 = 1e-12;

/// The engine's answer to `/v1/embeddings` with `encoding_format` base64 (vllm-engine §3.6). Borrows from its bytes.
#[derive(Debug, Deserialize)]
pub struct Embedded<'a> {
    #[serde(borrow)]
    data: Vec<Item<'a>>,
    usage: Usage,
}

#[derive(Debug, Deserialize)]
struct Item<'a> {
    index: usize,
    #[serde(borrow)]
    embedding: Text<'a>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Usage {
    prompt_tokens: u64,
}

impl<'a> Embedded<'a> {
    /// Reads the engine's answer; the vectors are then in the order of the texts.
    ///
    /// # Errors
    /// [`ApiError::Failed`] when it is no such answer, or has not one vector for each of `texts` texts.
    pub fn read(answer: &'a [u8], texts: usize) -> Result<Self, ApiError> {
        let unreadable =
            |error: serde_json::Error| ApiError::Failed(format!("the engine's answer is unreadable: {error}"));
        let mut embedded: Self = serde_json::from_slice(answer).map_err(unreadable)?;
        embedded.data.sort_by_key(|item| item.index);
        if embedded.data.iter().map(|item| item.index).ne(0..texts) {
            let found = embedded.data.len();
            return Err(ApiError::Failed(format!("the engine gave {found} vectors for {texts} texts")));
        }
        Ok(embedded)
    }

    /// Tokens of all texts together, those that mark beginning and end included.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.usage.prompt_tokens
    }

    /// Writes all vectors as a JSON list of lists: of length 1, and cut to the first `dimensions` numbers where they are
    /// longer (0 = never).
    ///
    /// # Errors
    /// [`ApiError::NotFinite`], or [`ApiError::Failed`] for a vector that cannot be read.
    pub fn write_normalised(&self, dimensions: usize, out: &mut Vec<u8>) -> Result<(), ApiError> {
        let mut vector = Vector::default();
        out.push(b'[');
        for (number, item) in self.data.iter().enumerate() {
            if number > 0 {
                out.push(b',');
            }
            vector.decode(&item.embedding)?;
            if dimensions > 0 {
                vector.numbers.truncate(dimensions);
            }
            vector.normalise();
            write(&vector.numbers, out)?;
        }
        out.push(b']');
        Ok(())
    }

    /// Writes the first vector as a JSON list, as the engine made it, in the double precision of the older route.
    ///
    /// # Errors
    /// As [`Embedded::write_normalised`].
    pub fn write_first(&self, out: &mut Vec<u8>) -> Result<(), ApiError> {
        let mut vector = Vector::default();
        vector.decode(self.data.first().map_or("", |item| &item.embedding))?;
        write(&vector.numbers.iter().copied().map(f64::from).collect::<Vec<_>>(), out)
    }
}

/// One vector; its room is used again for the next.
#[derive(Debug, Default)]
struct Vector {
    bytes: Vec<u8>,
    numbers: Vec<f32>,
}

impl Vector {
    fn decode(&mut self, base64: &str) -> Result<(), ApiError> {
        self.bytes.clear();
        let unreadable = || ApiError::Failed("the engine gave a vector that is no base64 of floats".to_owned());
        STANDARD.decode_vec(base64, &mut self.bytes).map_err(|_| unreadable())?;
        let (numbers, rest) = self.bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(unreadable());
        }
        self.numbers.clear();
        self.numbers.extend(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        if self.numbers.iter().all(|number| number.is_finite()) { Ok(()) } else { Err(ApiError::NotFinite) }
    }

    fn normalise(&mut self) {
        let length = self.numbers.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt().max(SHORTEST);
        for number in &mut self.numbers {
            #[expect(clippy::cast_possible_truncation, reason = "the numbers of the answer are floats")]
            let divided = (f64::from(*number) / length) as f32;
            *number = divided;
        }
    }
}

/// Numbers in the fewest digits that give the same number again.
fn write<T: Serialize>(numbers: &[T], out: &mut Vec<u8>) -> Result<(), ApiError> {
    serde_json::to_writer(out, numbers).map_err(|error| ApiError::Failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(vectors: &[(usize, &[f32])]) -> String {
        let base64 = |numbers: &[f32]| {
            STANDARD.encode(numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>())
        };
        let data: Vec<_> = vectors
            .iter()
            .map(|(index, numbers)| serde_json::json!({"index": index, "object": "embedding", "embedding": base64(numbers)}))
            .collect();
        serde_json::json!({"object": "list", "data": data, "usage": {"prompt_tokens": 7, "total_tokens": 7}})
            .to_string()
    }

    fn normalised(vectors: &[(usize, &[f32])], dimensions: usize) -> Result<String, ApiError> {
        let answer = answer(vectors);
        let mut out = Vec::new();
        Embedded::read(answer.as_bytes(), vectors.len())?.write_normalised(dimensions, &mut out)?;
        Ok(String::from_utf8(out).expect("JSON"))
    }

    #[test]
    fn vectors_are_normalised_and_keep_the_order_of_the_texts() {
        let text = normalised(&[(1, &[0.0, 2.0]), (0, &[3.0, 4.0])], 0);
        assert_eq!(text.as_deref(), Ok("[[0.6,0.8],[0.0,1.0]]"));
    }

    #[test]
    fn vectors_are_cut_before_they_are_normalised() {
        assert_eq!(normalised(&[(0, &[3.0, 4.0, 99.0])], 2).as_deref(), Ok("[[0.6,0.8]]"));
        assert_eq!(normalised(&[(0, &[3.0, 4.0])], 2).as_deref(), Ok("[[0.6,0.8]]"));
        assert_eq!(normalised(&[(0, &[3.0, 4.0])], 9).as_deref(), Ok("[[0.6,0.8]]"));
    }

    #[test]
    fn a_vector_of_zeros_stays_one_and_one_that_is_no_number_is_an_error() {
        assert_eq!(normalised(&[(0, &[0.0, 0.0])], 0).as_deref(), Ok("[[0.0,0.0]]"));
        for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(normalised(&[(0, &[1.0, number])], 0), Err(ApiError::NotFinite));
        }
    }

    #[test]
    fn every_number_comes_back_as_the_same_float() {
        // An odd stride through all lengths of mantissas and exponents.
        let numbers: Vec<f32> =
            (1..u32::MAX).step_by(10_000_019).map(f32::from_bits).filter(|number| number.is_finite()).collect();
        let mut out = Vec::new();
        write(&numbers, &mut out).expect("JSON");
        let again: Vec<f32> = serde_json::from_slice(&out).expect("a list");
        assert_eq!(again, numbers);
    }

    #[test]
    fn the_older_route_has_the_raw_vector_in_double_precision() {
        let answer = answer(&[(0, &[-0.496_427_18, 2.0])]);
        let mut out = Vec::new();
        Embedded::read(answer.as_bytes(), 1).expect("an answer").write_first(&mut out).expect("written");
        assert_eq!(String::from_utf8(out).as_deref(), Ok("[-0.49642717838287354,2.0]"));
    }

    #[test]
    fn an_answer_that_is_not_what_was_asked_for_is_a_failure() {
        let one = answer(&[(0, &[1.0])]);
        for (answer, texts) in
            [(one.as_str(), 2), ("{}", 1), ("<html>", 1), (answer(&[(0, &[1.0]), (0, &[1.0])]).as_str(), 2)]
        {
            assert!(matches!(Embedded::read(answer.as_bytes(), texts), Err(ApiError::Failed(_))), "{answer}");
        }
        for base64 in ["!!!!", "AAA=", "AAAAAAA="] {
            let answer = format!(r#"{{"data":[{{"index":0,"embedding":"{base64}"}}],"usage":{{"prompt_tokens":1}}}}"#);
            let embedded = Embedded::read(answer.as_bytes(), 1).expect("an answer");
            assert!(matches!(embedded.write_first(&mut Vec::new()), Err(ApiError::Failed(_))), "{base64}");
        }
    }
}
