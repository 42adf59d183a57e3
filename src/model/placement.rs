//! Which GPUs an engine is put on: decided by whoever knows what else runs there.

use super::plan::{Choice, Plan};

/// The variable by which the driver hides the other GPUs from a process.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

impl Plan {
    /// The same plan, on these GPUs (numbers in the driver's order) and no other ones.
    #[must_use]
    pub fn on_gpus(mut self, gpus: &[usize]) -> Self {
        self.environment.retain(|choice| !matches!(choice.name, VISIBLE | "CUDA_DEVICE_ORDER"));
        let numbers: Vec<_> = gpus.iter().map(usize::to_string).collect();
        self.environment.push(Choice {
            name: "CUDA_DEVICE_ORDER",
            value: Some("PCI_BUS_ID".to_owned()),
            reason: "NVML counts the GPUs in this order",
        });
        self.environment.push(Choice {
            name: VISIBLE,
            value: Some(numbers.join(",")),
            reason: "the GPUs with most memory free",
        });
        self
    }
}
