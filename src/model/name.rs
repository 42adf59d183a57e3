//! Model names as Ollama reads them: `[scheme://][host/][namespace/]model[:tag]` (ollama-api §4.1).

use std::fmt;

const DEFAULT_HOST: &str = "registry.ollama.ai";
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";

/// A complete, valid model name. Two names that differ only in case are equal, as in Ollama.
#[derive(Clone, Debug, Eq)]
pub struct ModelName {
    host: String,
    namespace: String,
    model: String,
    tag: String,
}

/// The text is no model name; says nothing more because Ollama's answer is one fixed sentence (§14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid model name")]
pub struct InvalidName;

impl ModelName {
    /// Reads a name as a client wrote it and fills in the default host, namespace and tag.
    ///
    /// # Errors
    /// [`InvalidName`] when a part is empty, too long or holds a character Ollama refuses.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let text = text.trim();
        let text = match text.split_once("://") {
            Some((_scheme, rest)) => rest,
            None => text,
        };
        let (path, tag) = match text.rfind(':') {
            Some(colon) if !text[colon..].contains('/') => (&text[..colon], &text[colon + 1..]),
            _ => (text, DEFAULT_TAG),
        };
        let mut parts = path.rsplitn(3, '/');
        let model = parts.next().unwrap_or_default();
        let namespace = parts.next().unwrap_or(DEFAULT_NAMESPACE);
        let host = parts.next().unwrap_or(DEFAULT_HOST);
        let valid = is_host(host) && is_part(namespace) && is_part(model) && is_part(tag);
        if !valid {
            return Err(InvalidName);
        }
        Ok(Self { host: host.into(), namespace: namespace.into(), model: model.into(), tag: tag.into() })
    }

    /// The short form shown in lists: default host and namespace left out, the tag always there, e.g. `llama3.2:latest`.
    #[must_use]
    pub fn display(&self) -> String {
        if !self.host_is_default() {
            format!("{}/{}/{}:{}", self.host, self.namespace, self.model, self.tag)
        } else if !self.namespace_is_default() {
            format!("{}/{}:{}", self.namespace, self.model, self.tag)
        } else {
            format!("{}:{}", self.model, self.tag)
        }
    }

    /// The full form used in some of Ollama's errors, e.g. `registry.ollama.ai/library/llama3.2:latest`.
    #[must_use]
    pub fn full(&self) -> String {
        format!("{}/{}/{}:{}", self.host, self.namespace, self.model, self.tag)
    }

    /// The model part alone, e.g. `llama3.2`.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The registry, e.g. `hf.co`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The namespace, e.g. `library`, or the organisation of a Hugging Face name.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The tag, e.g. `latest`.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Whether the registry is Ollama's, as where none is named.
    #[must_use]
    pub fn host_is_default(&self) -> bool {
        self.host.eq_ignore_ascii_case(DEFAULT_HOST)
    }

    /// Whether the namespace is that of Ollama's library, as where none is named.
    #[must_use]
    pub fn namespace_is_default(&self) -> bool {
        self.namespace.eq_ignore_ascii_case(DEFAULT_NAMESPACE)
    }

    /// The four parts in lower case, outermost first: the identity of the name, and its path in the store.
    #[must_use]
    pub fn key(&self) -> [String; 4] {
        [&self.host, &self.namespace, &self.model, &self.tag].map(|part| part.to_ascii_lowercase())
    }

    fn parts(&self) -> [&str; 4] {
        [&self.host, &self.namespace, &self.model, &self.tag]
    }
}

impl PartialEq for ModelName {
    fn eq(&self, other: &Self) -> bool {
        self.parts().iter().zip(other.parts()).all(|(mine, theirs)| mine.eq_ignore_ascii_case(theirs))
    }
}

impl std::hash::Hash for ModelName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        for part in self.parts() {
            for byte in part.bytes() {
                state.write_u8(byte.to_ascii_lowercase());
            }
            state.write_u8(b'/');
        }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.display())
    }
}

impl std::str::FromStr for ModelName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::parse(text)
    }
}

fn is_host(text: &str) -> bool {
    has_shape(text, 350, |byte| matches!(byte, b'-' | b'.' | b':'))
}

/// Namespaces may hold dots, unlike Ollama's: Hugging Face organisations do.
fn is_part(text: &str) -> bool {
    has_shape(text, 80, |byte| matches!(byte, b'-' | b'.'))
}

fn has_shape(text: &str, longest: usize, extra: impl Fn(u8) -> bool) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = text.bytes();
    text.len() <= longest && bytes.next().is_some_and(word) && bytes.all(|byte| word(byte) || extra(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn display(text: &str) -> String {
        ModelName::parse(text).map_or_else(|_| "invalid".to_owned(), |name| name.display())
    }

    #[test]
    fn names_are_filled_in_and_shown_in_their_short_form() {
        for (given, shown) in [
            ("smollm2:135m", "smollm2:135m"),
            ("smollm2", "smollm2:latest"),
            ("  smollm2 ", "smollm2:latest"),
            ("me/foo:7b", "me/foo:7b"),
            ("library/foo", "foo:latest"),
            ("registry.ollama.ai/library/foo:x", "foo:x"),
            ("hf.co/unsloth/X-GGUF:Q4_K_M", "hf.co/unsloth/X-GGUF:Q4_K_M"),
            ("http://localhost:5000/me/foo", "localhost:5000/me/foo:latest"),
            ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct:latest"),
        ] {
            assert_eq!(display(given), shown, "{given}");
        }
    }

    #[test]
    fn names_that_ollama_refuses_are_refused() {
        let long = "x".repeat(81);
        for given in ["", ":", "a:", "/a", "a//b", "a b", "-a", ".a", "a/../b", "ü", "a:b/", "a\0", long.as_str()] {
            assert_eq!(ModelName::parse(given), Err(InvalidName), "{given:?}");
        }
    }

    #[test]
    fn case_and_the_latest_tag_do_not_tell_names_apart() {
        let name = |text| ModelName::parse(text).expect("a valid name");
        assert_eq!(name("SmolLM2"), name("smollm2:LATEST"));
        assert_ne!(name("smollm2:135m"), name("smollm2:360m"));
        let set = std::collections::HashSet::from([name("A/b:C")]);
        assert!(set.contains(&name("a/B:c")));
    }
}
