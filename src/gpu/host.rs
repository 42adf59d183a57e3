//! What this machine or container has, read once from `/proc` and the control group.

use std::fs;
use std::path::{Path, PathBuf};

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
        let meminfo = text("/proc/meminfo");
        let (machine, total) = (memory(&meminfo, "MemAvailable:"), memory(&meminfo, "MemTotal:"));
        let groups: Vec<_> = control_groups(&text("/proc/self/cgroup")).iter().filter_map(Group::read).collect();
        Self {
            nvidia: exists("/proc/driver/nvidia/version") || exists("/dev/nvidiactl"),
            bfloat16: has_bfloat16(&text("/proc/cpuinfo")),
            memory_available: groups.iter().map(Group::left).fold(machine, u64::min),
            memory_total: groups.iter().map(|group| group.limit).fold(total, u64::min),
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

/// A control group that limits memory, in bytes.
struct Group {
    limit: u64,
    used: u64,
    /// Of what is used, the part that goes when somebody needs it: files that were read and are not in use.
    reclaimable: u64,
}

/// Where the figures of a control group are: its directory, and the names that versions 1 and 2 have for them.
pub(super) struct Place {
    pub(super) directory: PathBuf,
    /// Limit, usage, and the figure of `memory.stat` that can be reclaimed.
    names: [&'static str; 3],
}

const VERSION_1: [&str; 3] = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"];
const VERSION_2: [&str; 3] = ["memory.max", "memory.current", "inactive_file"];

/// The control groups that may limit this process, by `/proc/self/cgroup`: its own and all above. In a container the path
/// may be one of the machine outside; then only the root is there, which is the container's own.
pub(super) fn control_groups(own: &str) -> Vec<Place> {
    let groups = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        match controllers {
            "" => Some(("/sys/fs/cgroup", path, VERSION_2)),
            _ if controllers.split(',').any(|name| name == "memory") => {
                Some(("/sys/fs/cgroup/memory", path, VERSION_1))
            }
            _ => None,
        }
    });
    groups
        .flat_map(|(root, path, names)| {
            let above = Path::new(path).ancestors();
            above.map(move |path| Place {
                directory: Path::new(root).join(path.strip_prefix("/").unwrap_or(path)),
                names,
            })
        })
        .collect()
}

impl Group {
    /// Reads one; `None` where nothing is limited.
    fn read(place: &Place) -> Option<Self> {
        let text = |name| fs::read_to_string(place.directory.join(name)).unwrap_or_default();
        let [limit, used, reclaimable] = place.names;
        Self::parse(&text(limit), &text(used), &text("memory.stat"), reclaimable)
    }

    fn parse(limit: &str, used: &str, stat: &str, reclaimable: &str) -> Option<Self> {
        let figure = stat.lines().find_map(|line| line.strip_prefix(reclaimable)?.strip_prefix(' '));
        let number = |text: &str| text.trim().parse().ok();
        Some(Self {
            limit: number(limit)?,
            used: number(used).unwrap_or_default(),
            reclaimable: figure.and_then(number).unwrap_or_default(),
        })
    }

    /// Bytes below the limit.
    fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used.saturating_sub(self.reclaimable))
    }
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
    fn a_limit_may_be_set_on_the_group_of_a_process_or_on_any_above_it() {
        let places = |own| -> Vec<String> {
            let place = |place: &Place| place.directory.join(place.names[0]).display().to_string();
            control_groups(own).iter().map(place).collect()
        };
        assert_eq!(
            places("0::/system.slice/vllama.service\n"),
            [
                "/sys/fs/cgroup/system.slice/vllama.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        assert_eq!(
            places("5:devices:/\n4:cpu,memory:/a\n"),
            ["/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes",]
        );
        assert!(places("").is_empty());
    }

    #[test]
    fn memory_is_what_the_machine_has_left_and_the_group_allows() {
        assert_eq!(memory("MemTotal: 10 kB\nMemAvailable:   4 kB\n", "MemAvailable:"), 4096);
        let left = |limit, stat| Group::parse(limit, "400\n", stat, "inactive_file").map(|group| group.left());
        assert_eq!(left("1000\n", ""), Some(600));
        assert_eq!(left("1000\n", "anon 300\ninactive_file 100\n"), Some(700), "files that were read do not count");
        assert_eq!(left("300\n", ""), Some(0));
        assert_eq!(left("max\n", ""), None);
    }
}
