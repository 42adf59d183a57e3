//! What a checkpoint's weight files hold, from their headers: the sizes of those that vLLM loads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::{CardError, Format, files};
use crate::model::safetensors::{self, Tensor};

/// What the weight files hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// Bytes of all tensors, the draft layers' among them.
    pub bytes: u64,
    /// Bytes of the layers that guess the tokens after the next one.
    pub draft_bytes: u64,
    /// Numbers in tensors of floating point, draft layers and what only scales other weights apart.
    pub values: u64,
    /// Bytes of tensors of whole numbers, in which packed weights are kept.
    pub packed_bytes: u64,
    /// Numbers in tensors of 16 or 32 bits that vLLM converts to the type it computes in.
    pub floats: u64,
    /// Bytes of those tensors.
    pub float_bytes: u64,
}

impl Weights {
    /// Whether all numbers that vLLM converts have 32 bits.
    #[must_use]
    pub fn are_float32(&self) -> bool {
        self.floats > 0 && self.float_bytes == self.floats.saturating_mul(4)
    }

    /// Number of weights, when a packed one has this many bits.
    #[must_use]
    pub fn parameters(&self, bits: Option<u64>) -> u64 {
        let packed = self.packed_bytes.saturating_mul(8) / bits.unwrap_or(8).max(1);
        self.values.saturating_add(packed)
    }

    /// Bytes when every number vLLM converts takes `size` bytes, without the draft layers.
    #[must_use]
    pub fn served_bytes(&self, size: u64) -> u64 {
        let packed = self.bytes.saturating_sub(self.draft_bytes).saturating_sub(self.float_bytes);
        packed.saturating_add(self.floats.saturating_mul(size))
    }
}

impl Weights {
    fn add(&mut self, tensor: &Tensor, layers: u64) {
        let (bytes, values) = (tensor.bytes(), tensor.elements());
        self.bytes = self.bytes.saturating_add(bytes);
        if is_draft(&tensor.name, layers) {
            self.draft_bytes = self.draft_bytes.saturating_add(bytes);
            return;
        }
        if !is_beside(&tensor.name) {
            if tensor.dtype.starts_with(['I', 'U']) {
                self.packed_bytes = self.packed_bytes.saturating_add(bytes);
            } else {
                self.values = self.values.saturating_add(values);
            }
        }
        if matches!(tensor.dtype.as_str(), "BF16" | "F16" | "F32") {
            self.floats = self.floats.saturating_add(values);
            self.float_bytes = self.float_bytes.saturating_add(bytes);
        }
    }
}

/// Reads the headers of the files that vLLM would load; `layers` is the number of the model's own layers.
pub(super) fn read(directory: &Path, format: Format, layers: u64) -> Result<Weights, CardError> {
    let files: Vec<_> = loaded(directory, format)?.into_iter().map(|name| directory.join(name)).collect();
    let tensors =
        safetensors::headers_of(&files).map_err(|source| CardError::File { file: "the weights".to_owned(), source })?;
    let mut weights = Weights::default();
    for tensor in &tensors {
        weights.add(tensor, layers);
    }
    Ok(weights)
}

/// The names of the weight files that vLLM loads: those of the index, and of two sets of the same weights one.
fn loaded(directory: &Path, format: Format) -> Result<BTreeSet<String>, CardError> {
    let listed = fs::read_dir(directory).map_err(|source| CardError::File { file: ".".into(), source })?;
    let present: BTreeSet<String> = listed
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".safetensors") && !name.starts_with("adapter_"))
        .collect();
    let consolidated = |name: &&String| name.starts_with("consolidated");
    if format == Format::Mistral {
        let theirs: BTreeSet<_> = present.iter().filter(consolidated).cloned().collect();
        return Ok(if theirs.is_empty() { present } else { theirs });
    }
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    if let Some(index) = files::json::<Index>(directory, "model.safetensors.index.json")? {
        let named: BTreeSet<String> = index.weight_map.into_values().collect();
        return Ok(present.intersection(&named).cloned().collect());
    }
    let ours: BTreeSet<_> = present.iter().filter(|name| !consolidated(name)).cloned().collect();
    Ok(if ours.is_empty() { present } else { ours })
}

/// Whether a tensor belongs to the layers that guess the tokens after the next one: they lie in a part of their own or
/// behind the model's last layer.
fn is_draft(name: &str, layers: u64) -> bool {
    if name.starts_with("mtp.") || name.contains(".mtp.") || name.contains("mtp_layers.") {
        return true;
    }
    let Some((_, rest)) = name.split_once("model.layers.") else { return false };
    let number = rest.split('.').next().and_then(|number| number.parse::<u64>().ok());
    layers > 0 && number.is_some_and(|number| number >= layers)
}

/// Whether a tensor only tells how to unpack another one.
fn is_beside(name: &str) -> bool {
    ["scale", "scales", "scale_inv", "qzeros", "zero_point", "g_idx", "weight_shape"]
        .iter()
        .any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str, header: &str) {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        fs::write(directory.join(name), bytes).expect("written");
    }

    #[test]
    fn the_files_of_the_index_are_summed_up_and_draft_layers_told_apart() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = directory.path();
        write(
            place,
            "model-1.safetensors",
            r#"{"__metadata__":{"format":"pt"},"model.layers.0.w":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},
                "model.layers.0.q":{"dtype":"I32","shape":[5],"data_offsets":[12,32]},
                "model.layers.2.w":{"dtype":"BF16","shape":[4],"data_offsets":[32,40]}}"#,
        );
        write(place, "other.safetensors", r#"{"x":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}"#);
        let index = r#"{"weight_map":{"model.layers.0.w":"model-1.safetensors"}}"#;
        fs::write(place.join("model.safetensors.index.json"), index).expect("written");
        let weights = read(place, Format::HuggingFace, 2).expect("weights");
        let expected = Weights { bytes: 40, draft_bytes: 8, values: 6, packed_bytes: 20, floats: 6, float_bytes: 12 };
        assert_eq!(weights, expected);
        assert_eq!(weights.parameters(Some(4)), 6 + 40);
        assert_eq!(weights.served_bytes(4), 20 + 24);
    }

    #[test]
    fn of_two_sets_of_the_same_weights_one_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = directory.path();
        write(place, "model.safetensors", r#"{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}"#);
        write(place, "consolidated.safetensors", r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#);
        assert_eq!(read(place, Format::HuggingFace, 0).expect("weights").bytes, 2);
        assert_eq!(read(place, Format::Mistral, 0).expect("weights").bytes, 4);
    }

    #[test]
    fn a_file_that_is_no_weight_file_is_refused_and_not_read_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("model.safetensors"), [0xff; 64]).expect("written");
        let error = read(directory.path(), Format::HuggingFace, 0).expect_err("no header").to_string();
        assert!(error.contains("model.safetensors") && error.contains("no whole safetensors file"), "{error}");
    }
}
