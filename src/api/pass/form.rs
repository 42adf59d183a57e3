//! A form (`multipart/form-data`, RFC 7578) on its way through: the field that names the model is found and rewritten, the
//! rest, which is mostly a file, stays as it came.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use memchr::memmem::{self, Finder};

use crate::api::ollama::error::ApiError;
use crate::scheduler::Content;

/// Most headers of one field.
const MOST_HEADERS: usize = 16;

/// A form whose model is known.
#[derive(Debug)]
pub struct Form {
    body: Bytes,
    boundary: String,
    /// Where the model's name stands.
    place: Range<usize>,
    /// Name and place of the value of each field.
    fields: Vec<(String, Range<usize>)>,
}

impl Form {
    /// Reads a body. The boundary between its fields is that of its first line, so that the header of the request, which
    /// says the same, is not needed.
    ///
    /// # Errors
    /// [`ApiError::BadJson`] when it is no form, [`ApiError::ModelRequired`] when no field names the model.
    pub fn read(body: Bytes) -> Result<Self, ApiError> {
        let no_form = || ApiError::BadJson("the body is no form: expected multipart/form-data".to_owned());
        let boundary = boundary(&body).ok_or_else(no_form)?.to_owned();
        let fields = fields(&body, &boundary).ok_or_else(no_form)?;
        let mut model = None;
        for (name, place) in &fields {
            if name == "model" && model.replace(place.clone()).is_some() {
                // Whoever checks who may use which model must not be made to look at the other one.
                return Err(ApiError::BadJson("the form names the model twice".to_owned()));
            }
        }
        let place = model.ok_or(ApiError::ModelRequired)?;
        match std::str::from_utf8(&body[place.clone()]) {
            Ok(name) if name.trim().is_empty() => Err(ApiError::ModelRequired),
            Ok(_) => Ok(Self { body, boundary, place, fields }),
            Err(_) => Err(ApiError::InvalidName),
        }
    }

    /// The model's name as the client wrote it.
    #[must_use]
    pub fn asked(&self) -> &str {
        // It was text when it was read.
        std::str::from_utf8(&self.body[self.place.clone()]).unwrap_or_default()
    }

    /// The value of the first field of this name, which may be a file.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        let (_, place) = self.fields.iter().find(|(field, _)| field == name)?;
        Some(&self.body[place.clone()])
    }

    /// The form for an engine that calls the model `served`.
    #[must_use]
    pub fn renamed(&self, served: &str) -> Content {
        let kind = Cow::Owned(format!("multipart/form-data; boundary=\"{}\"", self.boundary));
        if self.asked() == served {
            return Content { kind, bytes: self.body.clone(), priority: None };
        }
        let Range { start, end } = self.place.clone();
        let mut bytes = Vec::with_capacity(self.body.len() + served.len());
        for part in [&self.body[..start], served.as_bytes(), &self.body[end..]] {
            bytes.extend_from_slice(part);
        }
        Content { kind, bytes: bytes.into(), priority: None }
    }
}

/// The boundary that the first line draws, where it is one that may stand in a header (RFC 2046 §5.1.1).
fn boundary(body: &[u8]) -> Option<&str> {
    let end = memmem::find(&body[..body.len().min(200)], b"\r\n")?;
    let boundary = std::str::from_utf8(&body[..end]).ok()?.strip_prefix("--")?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
    ((1..=70).contains(&boundary.len()) && boundary.bytes().all(allowed)).then_some(boundary)
}

/// Name and place of the value of each field; `None` where the form breaks off.
fn fields(body: &[u8], boundary: &str) -> Option<Vec<(String, Range<usize>)>> {
    let line = format!("\r\n--{boundary}");
    let finder = Finder::new(&line);
    // The first line has no line end before it.
    let mut at = line.len() - 2;
    let mut fields = Vec::new();
    loop {
        let rest = &body[at..];
        if rest.starts_with(b"--") {
            return Some(fields);
        }
        let rest = rest.strip_prefix(b"\r\n")?;
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let httparse::Status::Complete((length, headers)) = httparse::parse_headers(rest, &mut headers).ok()? else {
            return None;
        };
        let start = at + 2 + length;
        let end = start + finder.find(&body[start..])?;
        let disposition = headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-disposition"));
        fields.extend(disposition.and_then(|header| name(header.value)).map(|name| (name, start..end)));
        at = end + line.len();
    }
}

/// The `name` of a `Content-Disposition`, whose values may be in quotes, with backslashes before quotes in them.
fn name(disposition: &[u8]) -> Option<String> {
    let mut rest = std::str::from_utf8(disposition).ok()?;
    while let Some((_, parameter)) = rest.split_once(';') {
        let (key, value) = parameter.split_once('=')?;
        let value = value.trim_start();
        let (value, after) = match value.strip_prefix('"') {
            None => {
                let end = value.find(';').unwrap_or(value.len());
                (value[..end].trim().to_owned(), &value[end..])
            }
            Some(quoted) => quoted_value(quoted)?,
        };
        if key.trim().eq_ignore_ascii_case("name") {
            return Some(value);
        }
        rest = after;
    }
    None
}

/// The value up to the closing quote, and what follows.
fn quoted_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((index, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[index + 1..])),
            '\\' => value.push(letters.next()?.1),
            letter => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "--b-1\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a; name=\\\"model\\\".wav\"\r\n\
        Content-Type: audio/wav\r\n\r\nRIFF\r\n--b\r\n\0\u{ff}\r\n--b-1\r\ncontent-disposition: form-data; filename*=x; name=model\r\n\r\n\
        Whisper\r\n--b-1\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\n\r\n--b-1--\r\n";

    fn read(form: &str) -> Result<Form, ApiError> {
        Form::read(Bytes::from(form.to_owned()))
    }

    #[test]
    fn the_model_is_found_and_nothing_else_changes() {
        let form = read(FORM).expect("a form");
        assert_eq!(form.asked(), "Whisper");
        let Content { kind, bytes, .. } = form.renamed("whisper:latest");
        assert_eq!(kind, "multipart/form-data; boundary=\"b-1\"");
        assert_eq!(bytes, FORM.replace("Whisper", "whisper:latest"));
        assert_eq!(form.renamed("Whisper").bytes.as_ptr(), form.body.as_ptr());
    }

    #[test]
    fn what_is_no_form_is_told() {
        let field = |name: &str, value: &str| {
            format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let no_form = "the body is no form: expected multipart/form-data";
        for (form, text) in [
            (String::new(), no_form),
            ("{\"model\":\"m\"}".to_owned(), no_form),
            ("--b\r\n".to_owned(), no_form),
            ("--b\u{e9}\r\n".to_owned(), no_form),
            (format!("--{}\r\n", "b".repeat(71)), no_form),
            (field("model", "m"), no_form),
            (format!("{}--b", field("model", "m")), no_form),
            (format!("{}--b--", field("file", "m")), "model is required"),
            (format!("{}--b--", field("model", " ")), "model is required"),
            (format!("{}--b--", field("model", "")), "model is required"),
            (format!("{}{}--b--", field("model", "a"), field("model", "b")), "the form names the model twice"),
        ] {
            assert_eq!(read(&form).expect_err(&form).to_string(), text, "{form:?}");
        }
    }

    #[test]
    fn a_form_cut_anywhere_is_refused_and_not_misread() {
        for end in 0..FORM.len() - 4 {
            if let Some(cut) = FORM.get(..end) {
                assert!(read(cut).is_err(), "{cut:?}");
            }
        }
    }
}
