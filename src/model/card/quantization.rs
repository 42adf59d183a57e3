//! How a checkpoint's weights are packed.

use std::path::Path;

use serde_json::Value;

use super::{CardError, files};

/// How the weights are packed; vLLM reads it from the same place and needs no flag for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quantization {
    /// `quant_method`: `awq`, `gptq`, `fp8`, `compressed-tensors`, `mxfp4` …
    pub method: String,
    /// Bits per weight, where it tells.
    pub bits: Option<u64>,
    /// Weights in a row that share one scale: a feed-forward layer is split between GPUs at such borders only. 0 = none.
    pub group: u64,
    /// The numbers that are kept, as `quantization_level` says it (ollama-api §4.2): `INT4`, `INT8`, `FP8`, `NVFP4`,
    /// `MXFP4`, `MXFP8`; of a method that does not tell its bits, its name in capitals.
    pub level: String,
}

impl Quantization {
    /// As `config.json` tells.
    pub(super) fn in_config(config: &Value) -> Option<Self> {
        let told = config.get("quantization_config").or_else(|| config.get("compression_config"))?;
        let method = told["quant_method"].as_str().unwrap_or_default().to_owned();
        let told = Self::of(told, method);
        // Of one that names neither a method nor bits nobody can say what it is; vLLM takes it for none.
        (!told.method.is_empty() || told.bits.is_some()).then_some(told)
    }

    fn of(told: &Value, method: String) -> Self {
        let weights = told["config_groups"].as_object().and_then(|groups| groups.values().next());
        let weights = weights.map_or(&Value::Null, |group| &group["weights"]);
        let (bits, level) = match float(told, &method) {
            Some((level, bits)) => (Some(bits), level.to_owned()),
            None => match integer_bits(told, &method, weights) {
                Some(bits) => (Some(bits), format!("INT{bits}")),
                None => (None, method.to_ascii_uppercase()),
            },
        };
        let group = told["weight_block_size"][0]
            .as_u64()
            .or_else(|| told["group_size"].as_u64())
            .or_else(|| told["q_group_size"].as_u64())
            .or_else(|| weights["group_size"].as_u64())
            .unwrap_or_default();
        Self { method, bits, group, level }
    }

    /// For people: `awq, 4 bits`.
    #[must_use]
    pub fn describe(&self) -> String {
        match self.bits {
            Some(bits) => format!("{}, {bits} bits", self.method),
            None => self.method.clone(),
        }
    }
}

/// As NVIDIA's tool tells, in a file beside the configuration.
pub(super) fn beside(directory: &Path) -> Result<Option<Quantization>, CardError> {
    let Some(file) = files::json::<Value>(directory, "hf_quant_config.json")? else { return Ok(None) };
    let told = &file["quantization"];
    let Some(algorithm) = told["quant_algo"].as_str() else { return Ok(None) };
    Ok(Some(Quantization::of(told, format!("modelopt {algorithm}"))))
}

/// The kind of small floating-point number that is kept, and its bits. Every method says it in another place: some in
/// its name, some by a format, for all layers or for groups of them.
fn float(told: &Value, method: &str) -> Option<(&'static str, u64)> {
    let method = method.to_ascii_lowercase();
    for (word, level, bits) in [("nvfp4", "NVFP4", 4), ("mxfp4", "MXFP4", 4), ("mxfp8", "MXFP8", 8)] {
        if method.contains(word) || says(told, "", &|_, text| text.contains(word)) {
            return Some((level, bits));
        }
    }
    let is_fp8 =
        |key: &str, text: &str| (key == "quant_algo" && text.starts_with("fp8")) || text.contains("float-quantized");
    (method.contains("fp8") || says(told, "", &is_fp8)).then_some(("FP8", 8))
}

/// Bits of a weight that is kept as a whole number.
fn integer_bits(told: &Value, method: &str, weights: &Value) -> Option<u64> {
    let algorithm = told["quant_algo"].as_str().unwrap_or_default();
    let keeps =
        |key: &str, starts: [&str; 2]| told[key] == true || starts.iter().any(|start| algorithm.starts_with(start));
    let bits = told["bits"].as_u64().or_else(|| told["w_bit"].as_u64()).or_else(|| weights["num_bits"].as_u64());
    let implied = || {
        if keeps("load_in_4bit", ["INT4", "W4"]) || method.eq_ignore_ascii_case("awq") {
            Some(4)
        } else {
            keeps("load_in_8bit", ["INT8", "W8"]).then_some(8)
        }
    };
    let bits = bits.or_else(implied);
    bits.filter(|bits| (1..=16).contains(bits))
}

/// Whether some text of a configuration, given with its key and in small letters, passes; what is said of the layers
/// that are left alone and of the memory of sequences does not count.
fn says(value: &Value, key: &str, passes: &dyn Fn(&str, &str) -> bool) -> bool {
    match value {
        Value::String(text) => passes(key, &text.to_ascii_lowercase()),
        Value::Array(values) => values.iter().any(|value| says(value, key, passes)),
        Value::Object(values) => values
            .iter()
            .filter(|(key, _)| !key.starts_with("kv_cache") && !key.contains("ignore") && !key.contains("exclude"))
            .filter(|(key, _)| *key != "modules_to_not_convert")
            .any(|(key, value)| says(value, key, passes)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(told: &Value) -> Option<Quantization> {
        Quantization::in_config(&json!({ "quantization_config": told }))
    }

    #[test]
    fn every_kind_of_packing_is_read() {
        let groups = json!({"group_0": {"weights": {"num_bits": 8, "group_size": null}}});
        for (told, method, bits, group) in [
            (json!({"quant_method": "awq", "bits": 4, "group_size": 128}), "awq", Some(4), 128),
            (json!({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}), "awq", Some(4), 64),
            (json!({"quant_method": "fp8", "weight_block_size": [128, 128]}), "fp8", Some(8), 128),
            (json!({"quant_method": "mxfp4"}), "mxfp4", Some(4), 0),
            (json!({"quant_method": "compressed-tensors", "config_groups": groups}), "compressed-tensors", Some(8), 0),
        ] {
            let read = found(&told).expect("a packing");
            assert_eq!((read.method.as_str(), read.bits, read.group), (method, bits, group), "{told}");
        }
    }

    #[test]
    fn levels_are_told_in_ollamas_manner() {
        let groups = |bits: u64| json!({"group_0": {"targets": ["Linear"], "weights": {"num_bits": bits}}});
        for (told, level, bits) in [
            (json!({"quant_method": "awq", "bits": 4}), "INT4", Some(4)),
            (json!({"quant_method": "AWQ"}), "INT4", Some(4)),
            (json!({"quant_method": "gptq", "bits": 8}), "INT8", Some(8)),
            (json!({"quant_method": "gptq", "bits": 3}), "INT3", Some(3)),
            (json!({"quant_method": "fp8"}), "FP8", Some(8)),
            (json!({"quant_method": "fbgemm_fp8"}), "FP8", Some(8)),
            (json!({"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}), "MXFP4", Some(4)),
            (json!({"quant_method": "fp_quant", "forward_dtype": "mxfp4"}), "MXFP4", Some(4)),
            (json!({"quant_method": "mxfp8"}), "MXFP8", Some(8)),
            (
                json!({"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}),
                "NVFP4",
                Some(4),
            ),
            (json!({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"}), "FP8", Some(8)),
            (json!({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}), "INT4", Some(4)),
            (
                json!({"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": groups(8)}),
                "FP8",
                Some(8),
            ),
            (
                json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups(4)}),
                "INT4",
                Some(4),
            ),
            (
                json!({"quant_method": "compressed-tensors", "config_groups": {"a": {"format": "nvfp4-pack-quantized"}}}),
                "NVFP4",
                Some(4),
            ),
            (json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": false}), "INT4", Some(4)),
            (json!({"load_in_8bit": true}), "INT8", Some(8)),
            (json!({"quant_method": "quark"}), "QUARK", None),
            (json!({"quant_method": "quark", "exclude": ["mxfp4_layer"]}), "QUARK", None),
            (json!({"quant_method": "odd", "bits": 4096}), "ODD", None),
        ] {
            let read = found(&told).expect("a packing");
            assert_eq!((read.level.as_str(), read.bits), (level, bits), "{told}");
        }
        for none in [json!(null), json!({}), json!([]), json!("fp8"), json!({"quant_method": 7})] {
            assert_eq!(found(&none), None, "{none}");
        }
    }

    #[test]
    fn nvidias_file_beside_the_configuration_counts() {
        for (algorithm, level, bits) in [("NVFP4", "NVFP4", 4), ("FP8", "FP8", 8), ("W4A8_AWQ", "INT4", 4)] {
            let directory = tempfile::tempdir().expect("a directory");
            let file = json!({"producer": {}, "quantization": {"quant_algo": algorithm, "group_size": 16,
                "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}});
            std::fs::write(directory.path().join("hf_quant_config.json"), file.to_string()).expect("written");
            let read = beside(directory.path()).expect("read").expect("a packing");
            let method = format!("modelopt {algorithm}");
            assert_eq!(read, Quantization { method, bits: Some(bits), group: 16, level: level.into() });
        }
    }
}
