//! SHA-256 digests: of bytes, of files, of whole directories.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// A SHA-256 as 64 lower-case hexadecimal characters. Safe as a file name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256Digest(Box<str>);

/// The text is no digest; the words are Ollama's (ollama-api §14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest format")]
pub struct InvalidDigest;

impl Sha256Digest {
    /// Reads 64 hexadecimal characters.
    ///
    /// # Errors
    /// [`InvalidDigest`] for anything else.
    pub fn parse(hex: &str) -> Result<Self, InvalidDigest> {
        let valid = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        valid.then(|| Self(hex.to_ascii_lowercase().into())).ok_or(InvalidDigest)
    }

    /// Reads `sha256:<hex>` or `sha256-<hex>`, as blobs are named (ollama-api §4.8).
    ///
    /// # Errors
    /// [`InvalidDigest`] for anything else.
    pub fn parse_prefixed(text: &str) -> Result<Self, InvalidDigest> {
        let rest = text.strip_prefix("sha256").ok_or(InvalidDigest)?;
        Self::parse(rest.strip_prefix([':', '-']).ok_or(InvalidDigest)?)
    }

    /// The digest of bytes in memory.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The 64 characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `sha256:<hex>`, as blobs and layers are named.
impl fmt::Display for Sha256Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", self.0)
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A digest in the making.
#[derive(Clone, Debug, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes.
    #[must_use]
    pub fn finish(self) -> Sha256Digest {
        let hex: String = self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Sha256Digest(hex.into())
    }
}

/// The digest over names, sizes and contents of all files below `directory`, and the sum of their sizes in bytes. Reads
/// every byte: never on the way of a request.
///
/// # Errors
/// When something cannot be read, or is neither a file nor a directory: a link could point out of the store.
pub fn measure(directory: &Path) -> io::Result<(Sha256Digest, u64)> {
    let mut files = files_below(directory)?;
    files.sort();
    let mut hasher = Hasher::default();
    let mut size = 0;
    let mut buffer = vec![0; 1 << 20];
    for relative in files {
        let mut file = fs::File::open(directory.join(&relative))?;
        let length = file.metadata()?.len();
        hasher.update(relative.as_os_str().as_encoded_bytes());
        hasher.update(&length.to_le_bytes());
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
        }
        size += length;
    }
    Ok((hasher.finish(), size))
}

/// All files below `directory`, by their path relative to it.
///
/// # Errors
/// When a directory cannot be read, or holds something that is neither a file nor a directory.
pub fn files_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(inside) = open.pop() {
        for entry in fs::read_dir(directory.join(&inside))? {
            let entry = entry?;
            let relative = inside.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                open.push(relative);
            } else if kind.is_file() {
                files.push(relative);
            } else {
                let text = format!("{} is neither a file nor a directory", entry.path().display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_in_both_spellings_and_nothing_else() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Sha256Digest::of(b"").as_str(), hex);
        for text in [format!("sha256:{hex}"), format!("sha256-{}", hex.to_uppercase())] {
            assert_eq!(
                Sha256Digest::parse_prefixed(&text).map(|digest| digest.to_string()),
                Ok(format!("sha256:{hex}"))
            );
        }
        let long = format!("sha256:{hex}0");
        for text in ["", "sha256:", "sha256:../../etc/passwd", "md5:abc", hex, long.as_str()] {
            assert_eq!(Sha256Digest::parse_prefixed(text), Err(InvalidDigest), "{text}");
        }
    }

    #[test]
    fn files_in_subdirectories_count_and_links_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("a"), "12").expect("written");
        let (flat, size) = measure(directory.path()).expect("measured");
        assert_eq!(size, 2);
        std::fs::create_dir(directory.path().join("1_Pooling")).expect("made");
        std::fs::write(directory.path().join("1_Pooling/config.json"), "{}").expect("written");
        let (deep, size) = measure(directory.path()).expect("measured");
        assert!(deep != flat && size == 4);
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("link")).expect("linked");
        assert_eq!(measure(directory.path()).expect_err("a link").kind(), io::ErrorKind::InvalidData);
    }
}
