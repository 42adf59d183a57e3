//! Where a model comes from: its name → a repository of the hub and a revision.

use super::PullError;
use crate::model::{ModelName, library};

/// Ways to say Hugging Face in a name.
const HUB_HOSTS: [&str; 2] = ["hf.co", "huggingface.co"];

/// A checkpoint on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `organisation/name`.
    pub repository: String,
    /// Branch, tag or commit.
    pub revision: String,
}

impl Origin {
    /// Where the model of this name comes from. A name without namespace is one of Ollama's library; one with a
    /// namespace is a Hugging Face repository, and its tag a revision there.
    ///
    /// # Errors
    /// [`PullError::NotFound`], [`PullError::Registry`], or [`PullError::Gguf`] when the tag names a GGUF quantisation.
    pub fn of(name: &ModelName) -> Result<Self, PullError> {
        if name.host_is_default() && name.namespace_is_default() {
            let checkpoint = library::checkpoint(name.model(), name.tag()).ok_or(PullError::NotFound)?;
            return Ok(Self { repository: checkpoint.to_owned(), revision: "main".to_owned() });
        }
        if !name.host_is_default() && !HUB_HOSTS.iter().any(|host| name.host().eq_ignore_ascii_case(host)) {
            return Err(PullError::Registry(name.host().to_owned()));
        }
        let repository = format!("{}/{}", name.namespace(), name.model());
        if is_gguf_quantization(name.tag()) || repository.to_ascii_lowercase().ends_with("-gguf") {
            return Err(PullError::Gguf(repository));
        }
        let revision = if name.tag().eq_ignore_ascii_case("latest") { "main" } else { name.tag() };
        Ok(Self { repository, revision: revision.to_owned() })
    }
}

/// `Q4_K_M`, `IQ3_XS`, `q8_0`: how people name a file of a GGUF repository.
fn is_gguf_quantization(tag: &str) -> bool {
    let tag = tag.to_ascii_lowercase();
    let digits = tag.strip_prefix("iq").or_else(|| tag.strip_prefix('q'));
    digits.is_some_and(|rest| rest.as_bytes().first().is_some_and(u8::is_ascii_digit) && rest[1..].starts_with('_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Result<(String, String), PullError> {
        let origin = Origin::of(&ModelName::parse(text).expect("a name"))?;
        Ok((origin.repository, origin.revision))
    }

    #[test]
    fn names_of_the_library_and_of_the_hub_lead_to_a_repository() {
        for (text, repository, revision) in [
            ("qwen2.5:7b", "Qwen/Qwen2.5-7B-Instruct", "main"),
            ("library/QWEN2.5", "Qwen/Qwen2.5-7B-Instruct", "main"),
            ("registry.ollama.ai/library/smollm2:135m", "HuggingFaceTB/SmolLM2-135M-Instruct", "main"),
            ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "main"),
            ("hf.co/Qwen/Qwen2.5-7B-Instruct:latest", "Qwen/Qwen2.5-7B-Instruct", "main"),
            ("https://huggingface.co/org/name:v1.0", "org/name", "v1.0"),
            ("HF.CO/org/name:refs-x", "org/name", "refs-x"),
        ] {
            assert_eq!(origin(text), Ok((repository.to_owned(), revision.to_owned())), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_pulled_says_why() {
        assert_eq!(origin("nobody"), Err(PullError::NotFound));
        assert_eq!(origin("qwen2.5:9b"), Err(PullError::NotFound));
        assert_eq!(origin("localhost:5000/me/foo"), Err(PullError::Registry("localhost:5000".to_owned())));
        for text in ["hf.co/org/name-GGUF", "org/name-gguf:Q4_K_M", "hf.co/org/name:IQ3_XS", "org/name:q8_0"] {
            assert!(matches!(origin(text), Err(PullError::Gguf(_))), "{text}");
        }
    }
}
