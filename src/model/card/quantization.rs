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
}

impl Quantization {
    /// As `config.json` tells.
    pub(super) fn in_config(config: &Value) -> Option<Self> {
        let told = config.get("quantization_config").or_else(|| config.get("compression_config"))?;
        let method = told["quant_method"].as_str()?.to_owned();
        let weights = told["config_groups"].as_object().and_then(|groups| groups.values().next());
        let weights = weights.map_or(&Value::Null, |group| &group["weights"]);
        let bits = told["bits"].as_u64().or_else(|| told["w_bit"].as_u64()).or_else(|| weights["num_bits"].as_u64());
        let bits = bits.or(match method.as_str() {
            "fp8" | "fbgemm_fp8" => Some(8),
            "mxfp4" | "awq" => Some(4),
            _ => None,
        });
        let group = told["weight_block_size"][0]
            .as_u64()
            .or_else(|| told["group_size"].as_u64())
            .or_else(|| told["q_group_size"].as_u64())
            .or_else(|| weights["group_size"].as_u64())
            .unwrap_or_default();
        Some(Self { method, bits, group })
    }

    /// In Ollama's style: `AWQ 4 bits`.
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
    let Some(told) = files::json::<Value>(directory, "hf_quant_config.json")? else { return Ok(None) };
    let Some(algorithm) = told["quantization"]["quant_algo"].as_str() else { return Ok(None) };
    let bits = if algorithm.contains('4') { 4 } else { 8 };
    let group = told["quantization"]["group_size"].as_u64().unwrap_or_default();
    Ok(Some(Quantization { method: format!("modelopt {algorithm}"), bits: Some(bits), group }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_packing_is_read() {
        for (config, method, bits, group) in [
            (r#"{"quant_method":"awq","bits":4,"group_size":128}"#, "awq", Some(4), 128),
            (r#"{"quant_method":"fp8","weight_block_size":[128,128]}"#, "fp8", Some(8), 128),
            (r#"{"quant_method":"mxfp4"}"#, "mxfp4", Some(4), 0),
            (
                r#"{"quant_method":"compressed-tensors","config_groups":{"group_0":{"weights":{"num_bits":8,"group_size":null}}}}"#,
                "compressed-tensors",
                Some(8),
                0,
            ),
        ] {
            let config =
                serde_json::json!({"quantization_config": serde_json::from_str::<Value>(config).expect("JSON")});
            let found = Quantization::in_config(&config);
            assert_eq!(found, Some(Quantization { method: method.into(), bits, group }), "{config}");
        }
    }
}
