//! What an engine's life depends on beside the engine: told by whoever knows the machine.

use std::time::{Duration, Instant};

use super::failure::Kills;

/// The machine, as far as engines ask. Each call may read files, but asks no driver.
pub trait Surroundings: Send + Sync {
    /// Processes that the kernel has killed for want of memory so far.
    fn memory_kills(&self) -> Kills;

    /// Whether next to nothing is free in `/dev/shm`.
    fn shared_memory_is_full(&self) -> bool;

    /// The memory of the GPUs that `CUDA_VISIBLE_DEVICES` names (all, where it names none), and when it was read; `None`
    /// where nobody knows.
    fn gpus(&self, visible: Option<&str>) -> Option<(Instant, Vec<GpuMemory>)>;
}

/// The counts of kills of the last moments: a kill long before a death did not cause it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RecentKills {
    older: Kills,
    newer: Kills,
}

impl RecentKills {
    /// Time between two counts. A death shows within seconds, even if vLLM takes its time to leave.
    pub(super) const EVERY: Duration = Duration::from_secs(10);

    /// With this count as the first.
    pub(super) fn from(count: Kills) -> Self {
        Self { older: count, newer: count }
    }

    /// Takes in another count.
    pub(super) fn count(&mut self, count: Kills) {
        *self = Self { older: self.newer, newer: count };
    }

    /// The kills between a moment, one or two counts ago, and this count.
    pub(super) fn until(&self, count: Kills) -> Kills {
        count.since(self.older)
    }
}

/// A machine of which nothing is known.
#[derive(Clone, Copy, Debug)]
pub struct Unknown;

impl Surroundings for Unknown {
    fn memory_kills(&self) -> Kills {
        Kills::default()
    }

    fn shared_memory_is_full(&self) -> bool {
        false
    }

    fn gpus(&self, _visible: Option<&str>) -> Option<(Instant, Vec<GpuMemory>)> {
        None
    }
}

/// The memory of one GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuMemory {
    /// Its number, as the driver counts.
    pub number: usize,
    /// All of it and what is free, in bytes; `None` where the driver does not tell.
    pub bytes: Option<(u64, u64)>,
    /// Whether the driver tells nothing of it any more.
    pub lost: bool,
    /// Who holds some of it, the greediest first.
    pub holders: Vec<Holder>,
}

/// A process that holds memory of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number, as the driver sees it: that of the machine, even in a container.
    pub pid: u32,
    /// Its name; empty where nobody tells.
    pub name: String,
    /// Bytes it holds; `None` where the driver does not tell.
    pub bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_is_recent_for_one_count_and_forgotten_after_two() {
        let kills = |group| Kills { group, machine: 0 };
        let mut recent = RecentKills::from(kills(5));
        assert_eq!(recent.until(kills(6)), kills(1));
        recent.count(kills(6));
        assert_eq!(recent.until(kills(6)), kills(1), "it may be what the engine is about to die of");
        recent.count(kills(6));
        assert_eq!(recent.until(kills(6)), kills(0));
    }
}
