//! One line of `vllama-gpu`: all that is known of the GPUs at one moment.

use serde::{Deserialize, Serialize};

/// All GPUs at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The GPUs in the driver's order; empty when there are none or no driver.
    pub gpus: Vec<Gpu>,
    /// Why there is nothing to tell, e.g. `no NVIDIA driver: …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One GPU; `None`, in JSON null, where the driver does not tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpu {
    /// What it is sold as, e.g. `NVIDIA H100 80GB HBM3`.
    pub name: Option<String>,
    /// What tells it from all others, e.g. `GPU-5fd4…`.
    pub uuid: Option<String>,
    /// All of its memory, in bytes.
    pub memory_total: Option<u64>,
    /// Memory taken by anybody, in bytes.
    pub memory_used: Option<u64>,
    /// Memory free to take, in bytes; what the driver keeps for itself is neither used nor free.
    pub memory_free: Option<u64>,
    /// Share of the last moment in which it computed, 0–100 percent.
    pub utilization: Option<u32>,
    /// Temperature of the chip, in °C.
    pub temperature: Option<u32>,
    /// Power drawn, in watts.
    pub power: Option<f64>,
    /// CUDA compute capability, e.g. `[9, 0]`.
    pub compute_capability: Option<(u32, u32)>,
    /// Memory errors that could not be corrected since the driver was loaded.
    pub ecc_errors: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_its_shape() {
        let gpu = Gpu {
            name: Some("A".into()),
            memory_total: Some(1),
            power: Some(70.5),
            compute_capability: Some((8, 9)),
            ..Gpu::default()
        };
        let reading = Reading { gpus: vec![gpu], reason: None };
        let line = r#"{"gpus":[{"name":"A","uuid":null,"memory_total":1,"memory_used":null,"memory_free":null,"utilization":null,"temperature":null,"power":70.5,"compute_capability":[8,9],"ecc_errors":null}]}"#;
        assert_eq!(serde_json::to_string(&reading).ok().as_deref(), Some(line));
        assert_eq!(serde_json::from_str(line).ok(), Some(reading));
    }

    #[test]
    fn no_driver_is_a_reading_too() {
        let line = r#"{"gpus":[],"reason":"no NVIDIA driver"}"#;
        let reading: Option<Reading> = serde_json::from_str(line).ok();
        assert_eq!(reading, Some(Reading { gpus: vec![], reason: Some("no NVIDIA driver".into()) }));
    }
}
