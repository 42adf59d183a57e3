//! Keys themselves: 256 random bits, and what is kept of them (decision 0044).

use std::fmt;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;
use subtle::ConstantTimeEq;

/// How every key begins, so that people and scanners for leaked secrets know one.
const BEGINNING: &str = "sk-vllama-";
/// Random bytes of a key.
const RANDOM: usize = 32;
/// Longest text that is looked at as a key, in bytes: hashing what is longer would only cost time.
const LONGEST: usize = 128;

/// A new key. It is told once; only its digest stays. Never shown by `Debug`.
pub struct Secret(String);

impl Secret {
    /// Makes one of the system's random numbers.
    ///
    /// # Errors
    /// When the system has none.
    pub fn new() -> io::Result<Self> {
        let mut random = [0; RANDOM];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        Ok(Self(format!("{BEGINNING}{}", URL_SAFE_NO_PAD.encode(random))))
    }

    /// The key, as its owner sends it.
    #[must_use]
    pub fn tell(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest(sha2::Sha256::digest(&self.0).into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// SHA-256 of a key. Compared in constant time; told in the key file only.
#[derive(Clone, Copy)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of what a request shows as its key; `None` where that is too long to be one.
    #[must_use]
    pub fn of(shown: &str) -> Option<Self> {
        (shown.len() <= LONGEST).then(|| Self(sha2::Sha256::digest(shown).into()))
    }

    /// Its first bytes, by which it is looked up. They tell nothing: whoever could choose them could break SHA-256.
    pub(super) fn prefix(&self) -> [u8; 8] {
        let mut prefix = [0; 8];
        prefix.copy_from_slice(&self.0[..8]);
        prefix
    }

    /// A name for the key in files about it: the prefix in hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        hexadecimal(&self.0[..8])
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Digest {}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Digest({}…)", self.id())
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hexadecimal(&self.0))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).map(Self).ok_or_else(|| serde::de::Error::custom("a SHA-256 has 64 hexadecimal digits"))
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_its_digest_and_shows_itself_only_when_told() {
        let (one, other) = (Secret::new().expect("a key"), Secret::new().expect("a key"));
        assert_eq!(one.tell().len(), BEGINNING.len() + 43);
        assert_eq!(Digest::of(one.tell()), Some(one.digest()));
        assert_ne!(one.digest(), other.digest());
        let shown = format!("{one:?} {:?}", one.digest());
        assert!(!shown.contains(one.tell()) && !shown.contains(BEGINNING), "{shown}");
        assert_eq!(Digest::of(&"x".repeat(LONGEST + 1)), None);
    }

    #[test]
    fn digests_are_kept_in_hexadecimal_digits() {
        let digest = Digest::of("abc").expect("a digest");
        let text = serde_json::to_string(&digest).expect("JSON");
        assert_eq!(text, "\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"");
        assert_eq!(serde_json::from_str::<Digest>(&text.to_uppercase()).ok(), Some(digest));
        for wrong in ["\"\"", "\"ba\"", "7", &text.replace('b', "g"), &text.replace("ba", "+a")] {
            assert!(serde_json::from_str::<Digest>(wrong).is_err(), "{wrong}");
        }
    }
}
