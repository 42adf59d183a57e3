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
    /// Who holds some of its memory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<Process>,
}

/// A process that holds memory of a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number as the driver sees it: that of the machine, even in a container.
    pub pid: u32,
    /// Its program; empty where the driver does not tell.
    #[serde(default)]
    pub name: String,
    /// Bytes it holds; `None` where the driver does not tell.
    #[serde(default)]
    pub memory: Option<u64>,
}

impl Reading {
    /// The GPUs that `CUDA_VISIBLE_DEVICES` names, by number or by the beginning of their UUID, each with its number; all
    /// where nothing is said. Like CUDA, it stops at the first name that is none.
    #[must_use]
    pub fn visible(&self, names: Option<&str>) -> Vec<(usize, &Gpu)> {
        let Some(names) = names else { return self.gpus.iter().enumerate().collect() };
        let named = |name: &str| match name.parse::<usize>() {
            Ok(number) => self.gpus.get(number).map(|gpu| (number, gpu)),
            Err(_) if name.starts_with("GPU-") => {
                let mut numbered = self.gpus.iter().enumerate();
                numbered.find(|(_, gpu)| gpu.uuid.as_ref().is_some_and(|uuid| uuid.starts_with(name)))
            }
            Err(_) => None,
        };
        names.split(',').map(str::trim).map_while(named).collect()
    }
}

impl Gpu {
    /// Whether the driver tells nothing of it: it has fallen off the bus.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        *self == Self::default()
    }
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
    fn a_line_may_name_those_who_hold_memory() {
        let line = r#"{"gpus":[{"name":"A","processes":[{"pid":7,"name":"python3","memory":5},{"pid":8}]},{}]}"#;
        let reading: Reading = serde_json::from_str(line).expect("a reading");
        let python = Process { pid: 7, name: "python3".into(), memory: Some(5) };
        assert_eq!(reading.gpus[0].processes, [python, Process { pid: 8, ..Process::default() }]);
        assert!(reading.gpus[1].is_lost() && !reading.gpus[0].is_lost());
    }

    #[test]
    fn the_gpus_that_the_variable_names_are_found() {
        let gpu = |name: &str| Gpu { uuid: Some(format!("GPU-{name}")), ..Gpu::default() };
        let reading = Reading { gpus: vec![gpu("a"), gpu("b"), gpu("c")], reason: None };
        let numbers = |visible| reading.visible(visible).into_iter().map(|(number, _)| number).collect::<Vec<_>>();
        for (visible, expected) in [
            (None, &[0, 1, 2][..]),
            (Some("2,0"), &[2, 0]),
            (Some("GPU-b"), &[1]),
            (Some("1,-1,0"), &[1]),
            (Some(""), &[]),
            (Some("9"), &[]),
        ] {
            assert_eq!(numbers(visible), expected, "{visible:?}");
        }
    }

    #[test]
    fn no_driver_is_a_reading_too() {
        let line = r#"{"gpus":[],"reason":"no NVIDIA driver"}"#;
        let reading: Option<Reading> = serde_json::from_str(line).ok();
        assert_eq!(reading, Some(Reading { gpus: vec![], reason: Some("no NVIDIA driver".into()) }));
    }
}
