//! What a checkpoint's weight files hold, from their headers: the sizes of those that vLLM loads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::{CardError, Format, Quantization, files};
use crate::model::gather::is_inside;
use crate::model::safetensors::{self, Tensor};

/// The file that says which weight is in which file.
pub const INDEX: &str = "model.safetensors.index.json";
/// The file in which sentence-transformers list the parts of an embedding model.
pub const MODULES: &str = "modules.json";

/// What [`INDEX`] says.
#[derive(Deserialize)]
pub struct Index {
    /// The file of each weight.
    pub weight_map: BTreeMap<String, String>,
}

/// One entry of [`MODULES`].
#[derive(Deserialize)]
pub struct Module {
    #[serde(default)]
    path: String,
    /// Its class, e.g. `sentence_transformers.models.Pooling`.
    #[serde(default)]
    pub r#type: String,
}

impl Module {
    /// The directory with its files, where it is not the checkpoint's own. It comes from anybody and may lead out.
    #[must_use]
    pub fn directory(&self) -> Option<&str> {
        Some(self.path.trim_end_matches('/')).filter(|path| !path.is_empty())
    }
}

/// What the weight files hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// Bytes of all tensors, the draft layers' among them.
    pub bytes: u64,
    /// Bytes of the layers that guess the tokens after the next one.
    pub draft_bytes: u64,
    /// Number of weights: packed ones counted as what they hold, the draft layers and what only tells how to unpack
    /// others left out.
    pub parameters: u64,
    /// Type of most bytes, as safetensors names it: `BF16`, `F8_E4M3` …; empty where there are none.
    pub dtype: String,
    /// Numbers in tensors of 16 or 32 bits that vLLM converts to the type it computes in.
    pub floats: u64,
    /// Bytes of those tensors.
    pub float_bytes: u64,
}

impl Weights {
    /// Sums up tensors. `layers` is the number of the model's own layers.
    fn of(tensors: &[Tensor], layers: u64, quantization: Option<&Quantization>) -> Self {
        let mut weights = Self::default();
        let mut types: BTreeMap<&str, u64> = BTreeMap::new();
        for tensor in tensors {
            weights.add(tensor, layers, quantization);
            let bytes = types.entry(&tensor.dtype).or_default();
            *bytes = bytes.saturating_add(tensor.bytes());
        }
        let most = types.into_iter().max_by_key(|(_, bytes)| *bytes);
        weights.dtype = most.map(|(dtype, _)| dtype.to_owned()).unwrap_or_default();
        weights
    }

    fn add(&mut self, tensor: &Tensor, layers: u64, quantization: Option<&Quantization>) {
        let (bytes, values) = (tensor.bytes(), tensor.elements());
        self.bytes = self.bytes.saturating_add(bytes);
        if is_draft(&tensor.name, layers) {
            self.draft_bytes = self.draft_bytes.saturating_add(bytes);
            return;
        }
        self.parameters = self.parameters.saturating_add(match quantization {
            Some(_) if is_beside(&tensor.name) => 0,
            Some(Quantization { bits: Some(bits), .. }) => held(tensor, *bits),
            _ => values,
        });
        if matches!(tensor.dtype.as_str(), "BF16" | "F16" | "F32") {
            self.floats = self.floats.saturating_add(values);
            self.float_bytes = self.float_bytes.saturating_add(bytes);
        }
    }

    /// Whether all numbers that vLLM converts have 32 bits.
    #[must_use]
    pub fn are_float32(&self) -> bool {
        self.floats > 0 && self.float_bytes == self.floats.saturating_mul(4)
    }

    /// Bytes when every number vLLM converts takes `size` bytes, without the draft layers.
    #[must_use]
    pub fn served_bytes(&self, size: u64) -> u64 {
        let packed = self.bytes.saturating_sub(self.draft_bytes).saturating_sub(self.float_bytes);
        packed.saturating_add(self.floats.saturating_mul(size))
    }

    /// Type of most bytes as `quantization_level` says it (ollama-api §4.2): `BF16`, `F32`, `FP8` …
    #[must_use]
    pub fn level(&self) -> &str {
        if self.dtype.starts_with("F8_") { "FP8" } else { &self.dtype }
    }
}

/// Number of weights of `bits` bits that a tensor holds: several in each of its numbers where those are packed.
fn held(tensor: &Tensor, bits: u64) -> u64 {
    let width = match tensor.dtype.as_str() {
        "I32" => 32,
        "U8" => 8,
        _ => return tensor.elements(),
    };
    // Not by whole numbers: of three bits 32 lie in three numbers.
    if bits < width { tensor.elements().saturating_mul(width) / bits.max(1) } else { tensor.elements() }
}

/// Reads the headers of the files that vLLM would load; `layers` is the number of the model's own layers.
pub(super) fn read(
    directory: &Path,
    format: Format,
    layers: u64,
    quantization: Option<&Quantization>,
) -> Result<Weights, CardError> {
    let files: Vec<_> = loaded(directory, format)?.into_iter().map(|name| directory.join(name)).collect();
    let tensors =
        safetensors::headers_of(&files).map_err(|source| CardError::File { file: "the weights".to_owned(), source })?;
    Ok(Weights::of(&tensors, layers, quantization))
}

/// The weight files that vLLM loads, relative to the checkpoint: those of the index, of two sets of the same weights one,
/// and those of the modules that an embedding model has behind its layers.
///
/// # Errors
/// [`CardError::File`] when the directory, the index or the list of modules cannot be read.
pub fn loaded(directory: &Path, format: Format) -> Result<BTreeSet<String>, CardError> {
    let mut files = of_layers(directory, format)?;
    let modules: Vec<Module> = files::json(directory, MODULES)?.unwrap_or_default();
    let weights = modules.iter().filter_map(Module::directory).map(|path| format!("{path}/model.safetensors"));
    files.extend(weights.filter(|file| is_inside(file) && directory.join(file).is_file()));
    Ok(files)
}

fn of_layers(directory: &Path, format: Format) -> Result<BTreeSet<String>, CardError> {
    let listed = fs::read_dir(directory).map_err(|source| CardError::File { file: ".".into(), source })?;
    let present: BTreeSet<String> = listed
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".safetensors") && !name.starts_with("adapter_") && !name.starts_with('.'))
        .collect();
    let consolidated = |name: &&String| name.starts_with("consolidated");
    if format == Format::Mistral {
        let theirs: BTreeSet<_> = present.iter().filter(consolidated).cloned().collect();
        return Ok(if theirs.is_empty() { present } else { theirs });
    }
    if let Some(Index { weight_map }) = files::json(directory, INDEX)? {
        let named: BTreeSet<String> = weight_map.into_values().collect();
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

/// Whether a tensor of a packed checkpoint only tells how to unpack another one.
fn is_beside(name: &str) -> bool {
    const ENDS: [&str; 10] = [
        "zeros",
        "zero_point",
        "g_idx",
        "scale",
        "scales",
        "scale_inv",
        "scale_2",
        "weight_shape",
        "absmax",
        "quant_map",
    ];
    ENDS.iter().any(|end| name.ends_with(end)) || name.contains(".bitsandbytes__")
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
        let weights = read(place, Format::HuggingFace, 2, None).expect("weights");
        let dtype = "I32".to_owned();
        let expected = Weights { bytes: 40, draft_bytes: 8, parameters: 6 + 5, dtype, floats: 6, float_bytes: 12 };
        assert_eq!(weights, expected);
        assert_eq!(weights.served_bytes(4), 20 + 24);
        let packed = Quantization { bits: Some(4), ..Quantization::default() };
        let weights = read(place, Format::HuggingFace, 2, Some(&packed)).expect("weights");
        assert_eq!(weights.parameters, 6 + 40);
    }

    #[test]
    fn packed_weights_are_counted_as_what_they_hold() {
        let tensor = |(name, dtype, elements): (&str, &str, u64)| Tensor::for_test(name, dtype, &[elements]);
        let count = |tensors: &[(&str, &str, u64)], bits: Option<u64>, method: &str| {
            let tensors: Vec<_> = tensors.iter().copied().map(tensor).collect();
            let packed = Quantization { method: method.into(), bits, ..Quantization::default() };
            let weights = Weights::of(&tensors, 0, (!method.is_empty()).then_some(&packed));
            (weights.parameters, weights.level().to_owned())
        };
        let plain = [("a.weight", "BF16", 100), ("norm.scale", "F32", 10), ("position_ids", "I64", 5)];
        assert_eq!(count(&plain, None, ""), (115, "BF16".into()));
        let awq =
            [("a.qweight", "I32", 100), ("a.qzeros", "I32", 5), ("a.scales", "F16", 9), ("embed.weight", "F16", 50)];
        assert_eq!(count(&awq, Some(4), "awq"), (850, "I32".into()));
        assert_eq!(count(&[("a.qweight", "I32", 96)], Some(3), "gptq").0, 1024);
        let fp8 = [("a.weight", "F8_E4M3", 100), ("a.weight_scale_inv", "F32", 5)];
        assert_eq!(count(&fp8, Some(8), "fp8"), (100, "FP8".into()));
        let mxfp4 = [("a_blocks", "U8", 100), ("a_scales", "U8", 7), ("b.bias", "BF16", 3)];
        assert_eq!(count(&mxfp4, Some(4), "mxfp4"), (203, "U8".into()));
        let nf4 = [("a.weight", "U8", 8), ("a.weight.absmax", "F32", 1), ("a.quant_state.bitsandbytes__nf4", "U8", 90)];
        assert_eq!(count(&nf4, Some(4), "bitsandbytes").0, 16);
        let int8 = [("a.weight", "I8", 100), ("a.weight_scale", "F32", 5)];
        assert_eq!(count(&int8, Some(8), "compressed-tensors").0, 100);
        assert_eq!(count(&[("a.weight", "U8", 100), ("a.weight_scale", "U8", 5)], None, "quark").0, 100);
        assert_eq!(count(&[("a", "U8", u64::MAX), ("b", "U8", 9)], Some(4), "awq").0, u64::MAX / 4 + 18);
        assert_eq!(count(&[], None, ""), (0, String::new()));
    }

    #[test]
    fn weights_of_modules_count_and_none_that_lead_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = directory.path().join("checkpoint");
        fs::create_dir_all(place.join("2_Dense")).expect("made");
        let header = r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}"#;
        for name in ["model.safetensors", "2_Dense/model.safetensors", "../model.safetensors"] {
            write(&place, name, header);
        }
        let modules = r#"[{"path":""},{"path":"1_Pooling"},{"path":"2_Dense/"},{"path":".."},{"path":"/etc"}]"#;
        fs::write(place.join(MODULES), modules).expect("written");
        let files: Vec<_> = loaded(&place, Format::HuggingFace).expect("files").into_iter().collect();
        assert_eq!(files, ["2_Dense/model.safetensors", "model.safetensors"]);
        assert_eq!(read(&place, Format::HuggingFace, 0, None).expect("weights").parameters, 6);
    }

    #[test]
    fn of_two_sets_of_the_same_weights_one_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = directory.path();
        write(place, "model.safetensors", r#"{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}"#);
        write(place, "consolidated.safetensors", r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#);
        assert_eq!(read(place, Format::HuggingFace, 0, None).expect("weights").bytes, 2);
        assert_eq!(read(place, Format::Mistral, 0, None).expect("weights").bytes, 4);
    }

    #[test]
    fn a_file_that_is_no_weight_file_is_refused_and_not_read_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("model.safetensors"), [0xff; 64]).expect("written");
        let error = read(directory.path(), Format::HuggingFace, 0, None).expect_err("no header").to_string();
        assert!(error.contains("model.safetensors") && error.contains("no whole safetensors file"), "{error}");
    }
}
