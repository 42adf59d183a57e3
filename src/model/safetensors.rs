//! What safetensors files hold, from their headers alone: eight bytes of length, then JSON, then weights nobody reads here.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// Longest header that is read, in bytes; the format allows no more.
const HEADER_LIMIT: u64 = 100 << 20;
/// Most bytes of headers that are read for one checkpoint.
const HEADERS_LIMIT: u64 = 100 << 20;

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Tensor {
    /// Its name.
    #[serde(skip)]
    pub name: String,
    /// Type of its elements, as safetensors has it: `BF16`, `F32`, `I32` …
    pub dtype: String,
    /// Its dimensions.
    pub shape: Vec<u64>,
    /// Where its bytes begin and end, counted from the end of the header.
    data_offsets: (u64, u64),
}

impl Tensor {
    /// Number of its elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product: u64, length| product.saturating_mul(*length))
    }

    /// Bytes it takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.data_offsets.1 - self.data_offsets.0
    }

    /// One of so many bytes as its numbers need.
    #[cfg(test)]
    pub(super) fn for_test(name: &str, dtype: &str, shape: &[u64]) -> Self {
        let width = match dtype {
            "U8" | "I8" | "F8_E4M3" => 1,
            "BF16" | "F16" => 2,
            "I64" => 8,
            _ => 4,
        };
        let shape = shape.to_vec();
        let elements = shape.iter().fold(1, |product: u64, length| product.saturating_mul(*length));
        let data_offsets = (0, elements.saturating_mul(width));
        Self { name: name.to_owned(), dtype: dtype.to_owned(), shape, data_offsets }
    }
}

/// All tensors of a checkpoint, in the order of its files and of their headers.
///
/// # Errors
/// When a file cannot be read, or is no whole safetensors file: its header out of bounds, or its size another than the
/// header says.
pub fn tensors(checkpoint: &Path) -> io::Result<Vec<Tensor>> {
    tensors_of(&files(checkpoint)?)
}

/// All tensors of these files.
///
/// # Errors
/// As [`tensors`].
pub fn tensors_of(files: &[PathBuf]) -> io::Result<Vec<Tensor>> {
    read_all(files, whole)
}

/// All tensors of these files, whether or not the weights behind the headers are there.
///
/// # Errors
/// When a file cannot be read, or its header is none.
pub fn headers_of(files: &[PathBuf]) -> io::Result<Vec<Tensor>> {
    read_all(files, |_, _| Ok(()))
}

fn files(checkpoint: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(checkpoint)?.collect::<Result<Vec<_>, _>>()?;
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    files.sort();
    Ok(files)
}

/// Reads the headers of all files; `check` is told each file's size, and the size its header says.
fn read_all(files: &[PathBuf], check: impl Fn(u64, u64) -> io::Result<()>) -> io::Result<Vec<Tensor>> {
    let mut tensors = Vec::new();
    let mut left = HEADERS_LIMIT;
    for file in files {
        let read = read_header(file, &mut left, &mut tensors).and_then(|(size, told)| check(size, told));
        read.map_err(|error| {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            io::Error::new(error.kind(), format!("{name}: {error}"))
        })?;
    }
    Ok(tensors)
}

/// Whether a file is as large as its header says.
fn whole(size: u64, told: u64) -> io::Result<()> {
    if size == told {
        return Ok(());
    }
    Err(invalid(format!("it has {size} bytes where its header says {told}; it is torn")))
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Adds a file's tensors; gives the file's size, and the size its header says.
fn read_header(path: &Path, left: &mut u64, tensors: &mut Vec<Tensor>) -> io::Result<(u64, u64)> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| invalid("it is too short for a safetensors file".into()))?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_LIMIT.min(*left).min(size.saturating_sub(8)) {
        return Err(invalid(format!("its header of {length} bytes is out of bounds; it is no whole safetensors file")));
    }
    *left -= length;
    // Bounded just now, so it fits into memory.
    let mut text = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact(&mut text)?;
    let header: serde_json::Map<String, Value> =
        serde_json::from_slice(&text).map_err(|error| invalid(format!("its header is no JSON: {error}")))?;
    let mut end = 0;
    for (name, value) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
        let tensor: Tensor = serde_json::from_value(value)
            .map_err(|error| invalid(format!("its header is wrong at {name}: {error}")))?;
        let (start, stop) = tensor.data_offsets;
        if start > stop {
            return Err(invalid(format!("its header is wrong at {name}: it ends before it begins")));
        }
        end = end.max(stop);
        tensors.push(Tensor { name, ..tensor });
    }
    Ok((size, end.saturating_add(8 + length)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The bytes of a file with one tensor of two times three BF16 numbers.
    pub(crate) fn file() -> Vec<u8> {
        let header = r#"{"__metadata__":{"format":"pt"},"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 12]);
        bytes
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<Tensor>> {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("model.safetensors"), bytes).expect("written");
        tensors(directory.path())
    }

    #[test]
    fn a_header_tells_the_tensors() {
        let tensors = read(&file()).expect("a whole file");
        assert_eq!((tensors.len(), tensors[0].name.as_str(), tensors[0].shape.as_slice()), (1, "w", &[2, 3][..]));
        assert_eq!((tensors[0].elements(), tensors[0].bytes(), tensors[0].dtype.as_str()), (6, 12, "BF16"));
    }

    #[test]
    fn torn_and_hostile_files_are_refused() {
        let whole = file();
        for length in [0, 7, 8, 20, whole.len() - 1] {
            assert!(read(&whole[..length]).is_err(), "{length} bytes");
        }
        let mut hostile = u64::MAX.to_le_bytes().to_vec();
        hostile.extend(b"{}");
        assert!(read(&hostile).is_err());
        let header = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[9,1]}}"#;
        let backwards = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        assert!(read(&backwards).is_err());
    }
}
