//! Before a start: whether the GPUs have the memory that the plan takes. The kernel gives it back some time after the
//! last process of an engine is gone, and somebody else may hold it.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout_at};

use super::lifecycle::{Order, Supervisor};
use super::sleeping::Rest;
use super::surroundings::{GpuMemory, Holder};
use crate::model::plan::{Device, Plan, gibibytes};

/// Time between two looks at readings that come once a second.
const LOOK: Duration = Duration::from_millis(200);
/// Longest wait for a reading.
const READING: Duration = Duration::from_secs(2);
/// Most holders that are named.
const NAMED: usize = 4;

/// What is to be had of the GPUs of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    /// What is free of the GPU that has least, in percent; `None` where nobody knows.
    pub free_percent: Option<u32>,
    /// What is missing and who holds it, for people; `None` where all is there.
    pub shortage: Option<String>,
}

impl Supervisor {
    /// Waits until the memory that the plan takes is free, at most for the limit in the settings: then vLLM is the judge.
    /// Ends early with an order to stop.
    pub(super) async fn wait_for_room(&mut self) -> Result<(), Order> {
        let deadline = Instant::now() + self.settings.memory_limit;
        let mut told = false;
        // An older reading that shows room is good enough: only starts take memory, and they come one at a time.
        while let Some(Room { shortage: Some(shortage), .. }) = self.room_now() {
            if Instant::now() >= deadline {
                let seconds = self.settings.memory_limit.as_secs();
                tracing::warn!(model = self.plan.served_name, "after {seconds} s {shortage}; starting nevertheless");
                break;
            }
            if !std::mem::replace(&mut told, true) {
                tracing::info!(model = self.plan.served_name, "waiting for GPU memory: {shortage}");
            }
            match timeout_at((Instant::now() + LOOK).into(), self.orders.recv()).await {
                Ok(Some(Order::Start)) => self.wanted = Rest::Awake,
                Ok(Some(Order::Sleep(level))) => self.wanted = Rest::Asleep(level),
                Ok(Some(order)) => return Err(order),
                Ok(None) => return Err(Order::Stop),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// What is to be had now that nothing of the engine is left; waits for a reading of that, a moment.
    pub(super) async fn room_after_sweep(&self) -> Option<Room> {
        let swept = Instant::now();
        loop {
            let (read, gpus) = self.surroundings.gpus(visible(&self.plan))?;
            if read >= swept || swept.elapsed() >= READING {
                return Some(room(share(&self.plan)?, &gpus));
            }
            sleep(LOOK).await;
        }
    }

    /// Whether the driver does not know one of the plan's GPUs any more.
    pub(super) fn has_lost_a_gpu(&self) -> bool {
        let gpus = || self.surroundings.gpus(visible(&self.plan));
        self.plan.device == Device::Cuda && gpus().is_some_and(|(_, gpus)| gpus.iter().any(|gpu| gpu.lost))
    }

    fn room_now(&self) -> Option<Room> {
        let share = share(&self.plan)?;
        let (_, gpus) = self.surroundings.gpus(visible(&self.plan))?;
        Some(room(share, &gpus))
    }
}

/// The share of each of its GPUs that the plan takes; vLLM keeps the last one that it is told.
fn share(plan: &Plan) -> Option<f64> {
    const FLAG: &str = "--gpu-memory-utilization";
    let arguments = &plan.extra_arguments;
    // With a cache of a set size vLLM looks at no share.
    let is_set = arguments.iter().any(|argument| argument.starts_with("--kv-cache-memory-bytes"));
    if plan.device != Device::Cuda || is_set {
        return None;
    }
    let verbatim = arguments.iter().enumerate().rev().find_map(|(at, argument)| match argument.strip_prefix(FLAG)? {
        "" => arguments.get(at + 1).map(String::as_str),
        rest => rest.strip_prefix('='),
    });
    let chosen = || plan.flags.iter().find(|flag| flag.name == FLAG)?.value.as_deref();
    verbatim.or_else(chosen)?.parse().ok()
}

/// The GPUs that the plan names.
fn visible(plan: &Plan) -> Option<&str> {
    const VARIABLE: &str = "CUDA_VISIBLE_DEVICES";
    let theirs = plan.extra_environment.iter().find(|(name, _)| name == VARIABLE).map(|(_, list)| list.as_str());
    let ours = || plan.environment.iter().find(|choice| choice.name == VARIABLE)?.value.as_deref();
    theirs.or_else(ours)
}

/// What is to be had on these GPUs by an engine that takes this share of each.
fn room(share: f64, gpus: &[GpuMemory]) -> Room {
    let mut room = Room::default();
    let mut shortages = Vec::new();
    for gpu in gpus {
        let Some((total, free)) = gpu.bytes.filter(|(total, _)| *total > 0) else { continue };
        let percent = u32::try_from(u128::from(free) * 100 / u128::from(total)).unwrap_or(100).min(100);
        room.free_percent = Some(room.free_percent.map_or(percent, |least| least.min(percent)));
        #[expect(clippy::cast_precision_loss, reason = "as vLLM counts")]
        let suffices = free as f64 >= total as f64 * share;
        if !suffices {
            shortages.push(format!(
                "GPU {} has {} of {} free{}",
                gpu.number,
                gibibytes(free),
                gibibytes(total),
                holders(&gpu.holders)
            ));
        }
    }
    if !shortages.is_empty() {
        room.shortage = Some(shortages.join("; "));
    }
    room
}

/// Who holds the rest.
fn holders(holders: &[Holder]) -> String {
    let one = |holder: &Holder| {
        let name = if holder.name.is_empty() { "a process nobody can name from here" } else { &holder.name };
        let bytes = holder.bytes.map(|bytes| format!(", {}", gibibytes(bytes))).unwrap_or_default();
        format!("{name} (pid {}{bytes})", holder.pid)
    };
    let mut named: Vec<String> = holders.iter().take(NAMED).map(one).collect();
    if holders.len() > NAMED {
        named.push(format!("{} more", holders.len() - NAMED));
    }
    if named.is_empty() { String::new() } else { format!(", held by {}", named.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn gpu(number: usize, free: u64, holders: Vec<Holder>) -> GpuMemory {
        GpuMemory { number, bytes: Some((80 * GIB, free * GIB)), lost: false, holders }
    }

    #[test]
    fn the_fullest_gpu_decides_and_its_holders_are_named() {
        assert_eq!(room(0.85, &[gpu(0, 79, vec![])]), Room { free_percent: Some(98), shortage: None });
        let holders = vec![
            Holder { pid: 7, name: "python3".into(), bytes: Some(40 * GIB) },
            Holder { pid: 9, name: String::new(), bytes: None },
        ];
        let room = room(0.85, &[gpu(0, 79, vec![]), gpu(3, 30, holders)]);
        assert_eq!(room.free_percent, Some(37));
        assert_eq!(
            room.shortage.as_deref(),
            Some(
                "GPU 3 has 30.0 GiB of 80.0 GiB free, held by python3 (pid 7, 40.0 GiB), a process nobody can name from here (pid 9)"
            )
        );
    }

    #[test]
    fn a_gpu_that_tells_nothing_is_left_to_vllm() {
        let silent = GpuMemory { number: 0, bytes: None, ..GpuMemory::default() };
        assert_eq!(room(0.85, &[silent]), Room::default());
    }
}
