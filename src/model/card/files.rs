//! Small files of a checkpoint, read with a limit.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::CardError;

/// Largest JSON file of a checkpoint that is read, in bytes; real ones are far below.
pub(super) const LIMIT: u64 = 64 << 20;

/// The file's JSON, or `None` where there is no such file.
pub(in crate::model) fn json<T: serde::de::DeserializeOwned>(
    directory: &Path,
    file: &str,
) -> Result<Option<T>, CardError> {
    let Some(text) = text(directory, file)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| invalid(file, error))
}

/// The file's text, or `None` where there is no such file.
pub(super) fn text(directory: &Path, file: &str) -> Result<Option<String>, CardError> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        fs::File::open(directory.join(file))?.take(LIMIT).read_to_string(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CardError::File { file: file.to_owned(), source }),
    }
}

/// The error of a file that holds something else than it should.
pub(super) fn invalid(file: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CardError {
    CardError::File { file: file.to_owned(), source: io::Error::new(io::ErrorKind::InvalidData, error) }
}
