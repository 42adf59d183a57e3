//! The machine, as engines ask for it: GPUs by the helper's readings, memory by the kernel's counts.

use std::time::Instant;

use nix::sys::statvfs::statvfs;

use crate::engine::failure::Kills;
use crate::engine::surroundings::{GpuMemory, Holder, Surroundings};
use crate::gpu::{Gpu, MemoryKills, Watch};

/// Where processes share memory.
const SHARED_MEMORY: &str = "/dev/shm";
/// Bytes; an engine that finds as many free has not died for want of them.
const LEAST_FREE: u64 = 64 << 20;

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

    fn shared_memory_is_full(&self) -> bool {
        // One without it cannot be full.
        statvfs(SHARED_MEMORY).is_ok_and(|space| {
            let blocks = (space.blocks_available(), space.blocks());
            is_full(blocks.0.saturating_mul(space.fragment_size()), blocks.1.saturating_mul(space.fragment_size()))
        })
    }

    fn gpus(&self, visible: Option<&str>) -> Option<(Instant, Vec<GpuMemory>)> {
        let (read, reading) = self.gpus.as_ref()?.latest_at()?;
        Some((read, reading.visible(visible).into_iter().map(|(number, gpu)| memory(number, gpu)).collect()))
    }
}

/// Whether so few bytes are free that whoever asked for more than that was refused: a piece of shared memory of an engine
/// has some MiB.
fn is_full(free: u64, total: u64) -> bool {
    free < (total / 16).min(LEAST_FREE)
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
    fn shared_memory_is_full_when_a_piece_of_an_engine_would_not_fit() {
        let docker = 64 << 20;
        assert!(is_full(1 << 20, docker) && !is_full(32 << 20, docker));
        assert!(is_full(10 << 20, 64 << 30) && !is_full(1 << 30, 64 << 30) && !is_full(0, 0));
    }

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
