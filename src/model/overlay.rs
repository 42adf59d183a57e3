//! What a model adds to its checkpoint without changing a weight: what `/api/create` writes down (ollama-api §4.7).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::digest::Sha256Digest;

/// The overlay of one model. All of it may be empty: then the model is its checkpoint and no more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overlay {
    /// Display name of the model this one was made from; empty for one that was imported or pulled.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub parent: String,
    /// System prompt of requests that bring none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// The template as it was given. It is shown and otherwise ignored: the engine renders the checkpoint's own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub template: String,
    /// Defaults for `options`, by Ollama's names, in the order they were given.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub parameters: Map<String, Value>,
    /// Turns that come before those of the client, as `/api/chat` takes them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Value>,
    /// Licences beside that of the checkpoint.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub license: Vec<String>,
    /// The LoRA adapter the engine puts on the checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Adapter>,
}

/// A LoRA adapter in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapter {
    /// SHA-256 over its files.
    pub digest: Sha256Digest,
    /// Bytes on disk.
    pub size: u64,
}

impl Overlay {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The identity of a model with this overlay on that checkpoint: the checkpoint's own digest where nothing is added
    /// that a client could notice, so that a copy keeps the digest of what it was copied from.
    #[must_use]
    pub fn digest_on(&self, checkpoint: &Sha256Digest) -> Sha256Digest {
        let noticed = Self { parent: String::new(), ..self.clone() };
        if noticed.is_empty() {
            return checkpoint.clone();
        }
        // Strings, lists and numbers always become JSON.
        let text = serde_json::to_vec(&(checkpoint, &noticed)).unwrap_or_default();
        Sha256Digest::of(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_client_could_notice_changes_the_digest() {
        let checkpoint = Sha256Digest::of(b"weights");
        let parent = Overlay { parent: "a:latest".into(), ..Overlay::default() };
        assert_eq!(parent.digest_on(&checkpoint), checkpoint);
        let mario = Overlay { system: "You are Mario.".into(), ..parent.clone() };
        let luigi = Overlay { system: "You are Luigi.".into(), ..parent };
        assert_ne!(mario.digest_on(&checkpoint), luigi.digest_on(&checkpoint));
        assert_ne!(mario.digest_on(&checkpoint), mario.digest_on(&Sha256Digest::of(b"others")));
    }

    #[test]
    fn parameters_keep_their_order_on_disk() {
        let text = r#"{"parameters":{"stop":["b","a"],"num_ctx":4096,"a":1}}"#;
        let overlay: Overlay = serde_json::from_str(text).expect("an overlay");
        assert_eq!(serde_json::to_string(&overlay).expect("JSON"), text);
    }
}
