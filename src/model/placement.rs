//! Which GPUs an engine is put on: decided by whoever knows what else runs there.

use super::plan::{Choice, Plan};

/// The variable by which the driver hides the other GPUs from a process.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

impl Plan {
    /// The same plan, on these GPUs (numbers in the driver's order, or UUIDs) and no other ones.
    #[must_use]
    pub fn on_gpus(mut self, gpus: &[String]) -> Self {
        self.environment.retain(|choice| !matches!(choice.name, VISIBLE | "CUDA_DEVICE_ORDER"));
        self.environment.push(Choice {
            name: "CUDA_DEVICE_ORDER",
            value: Some("PCI_BUS_ID".to_owned()),
            more: Vec::new(),
            reason: "NVML counts the GPUs in this order".into(),
        });
        self.environment.push(Choice {
            name: VISIBLE,
            value: Some(gpus.join(",")),
            more: Vec::new(),
            reason: "the GPUs with most memory free".into(),
        });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::plan::{Device, sample};

    #[test]
    fn an_engine_sees_the_gpus_it_was_given_and_no_others_however_often_it_moves() {
        let plan = sample::plan(Device::Cuda, 2, &[]);
        let moved = plan.on_gpus(&["0".into(), "1".into()]).on_gpus(&["3".into(), "2".into()]);
        let visible: Vec<_> = moved.environment.iter().filter(|choice| choice.name == VISIBLE).collect();
        assert_eq!(visible.iter().map(|choice| choice.value.as_deref()).collect::<Vec<_>>(), [Some("3,2")]);
    }
}
