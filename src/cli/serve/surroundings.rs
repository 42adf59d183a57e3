//! The machine, as engines ask for it: GPUs by the helper's readings, memory by the kernel's counts.

use std::time::Instant;

use crate::engine::failure::Kills;
use crate::engine::surroundings::{GpuMemory, Holder, Surroundings};
use crate::gpu::{Gpu, MemoryKills, Watch};

/// This machine.
pub(super) struct Machine {
    /// Tells of the GPUs, where anybody does.
    pub gpus: Option<Watch>,
}

impl Surroundings for Machine {
    fn memory_kills(&self) -> Kills {
        let MemoryKills { group, machine } = MemoryKills::read();
        Kills { group, machine }
    }

    fn gpus(&self, visible: Option<&str>) -> Option<(Instant, Vec<GpuMemory>)> {
        let (read, reading) = self.gpus.as_ref()?.latest_at()?;
        Some((read, reading.visible(visible).into_iter().map(|(number, gpu)| memory(number, gpu)).collect()))
    }
}

fn memory(number: usize, gpu: &Gpu) -> GpuMemory {
    let holder =
        |process: &crate::gpu::Process| Holder { pid: process.pid, name: process.name.clone(), bytes: process.memory };
    GpuMemory {
        number,
        bytes: gpu.memory_total.zip(gpu.memory_free),
        lost: gpu.is_lost(),
        holders: gpu.processes.iter().map(holder).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Process;

    #[test]
    fn what_the_helper_tells_is_what_engines_are_told() {
        let processes = vec![Process { pid: 7, name: "python3".into(), memory: Some(5) }];
        let gpu = Gpu { memory_total: Some(80), memory_free: Some(30), processes, ..Gpu::default() };
        let holders = vec![Holder { pid: 7, name: "python3".into(), bytes: Some(5) }];
        assert_eq!(memory(3, &gpu), GpuMemory { number: 3, bytes: Some((80, 30)), lost: false, holders });
        assert!(memory(0, &Gpu::default()).lost);
        assert!(Machine { gpus: Some(Watch::unknown()) }.gpus(None).is_none());
    }
}
