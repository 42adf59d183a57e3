//! What this machine or container has, read once from `/proc` and the control group.

use std::fs;
use std::path::Path;

/// What a plan for an engine depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Whether an NVIDIA driver is loaded, or its devices are handed into this container.
    pub nvidia: bool,
    /// Whether the processor multiplies bfloat16 natively.
    pub bfloat16: bool,
    /// Bytes of main memory a new process may use; the control group's limit counts.
    pub memory_available: u64,
    /// Bytes of main memory there are; the control group's limit counts.
    pub memory_total: u64,
}

impl Host {
    /// Looks.
    #[must_use]
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let exists = |path: &str| Path::new(path).exists();
        let control_group = [
            ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        ]
        .iter()
        .find_map(|(limit, usage)| left_in_group(&text(limit), &text(usage)));
        let meminfo = text("/proc/meminfo");
        let machine = memory(&meminfo, "MemAvailable:");
        let total = memory(&meminfo, "MemTotal:");
        let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
        let limit = limit.iter().find_map(|path| text(path).trim().parse::<u64>().ok());
        Self {
            nvidia: exists("/proc/driver/nvidia/version") || exists("/dev/nvidiactl"),
            bfloat16: has_bfloat16(&text("/proc/cpuinfo")),
            memory_available: control_group.map_or(machine, |group| group.min(machine)),
            memory_total: limit.map_or(total, |limit| limit.min(total)),
        }
    }
}

fn has_bfloat16(cpuinfo: &str) -> bool {
    let flags =
        cpuinfo.lines().find(|line| line.starts_with("flags") || line.starts_with("Features")).unwrap_or_default();
    flags.split_ascii_whitespace().any(|flag| matches!(flag, "avx512_bf16" | "amx_bf16" | "bf16"))
}

fn memory(meminfo: &str, field: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.split_ascii_whitespace().next().and_then(|kibibytes| kibibytes.parse::<u64>().ok()).unwrap_or_default() << 10
}

/// Bytes below the limit; `None` where there is no limit (`max`).
fn left_in_group(limit: &str, usage: &str) -> Option<u64> {
    let limit: u64 = limit.trim().parse().ok()?;
    let usage: u64 = usage.trim().parse().unwrap_or_default();
    Some(limit.saturating_sub(usage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_flags_tell_whether_bfloat16_is_native() {
        assert!(has_bfloat16("processor : 0\nflags\t\t: fpu avx2 avx512_bf16 amx_tile\n"));
        assert!(!has_bfloat16("processor : 0\nflags\t\t: fpu avx2\n"));
    }

    #[test]
    fn memory_is_what_the_machine_has_left_and_the_group_allows() {
        assert_eq!(memory("MemTotal: 10 kB\nMemAvailable:   4 kB\n", "MemAvailable:"), 4096);
        assert_eq!(left_in_group("1000\n", "400\n"), Some(600));
        assert_eq!(left_in_group("max\n", "400\n"), None);
    }
}
