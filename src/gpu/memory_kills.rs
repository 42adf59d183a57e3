//! How many processes the kernel has killed because main memory had run out: why an engine ended of which nothing else
//! tells (vllm-engine §5.7).

use std::fs;
use std::path::Path;

use super::host::control_groups;

/// Processes that the kernel has killed for want of memory so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryKills {
    /// In the control group of this process and those below it; 0 where it cannot be read.
    pub group: u64,
    /// On the whole machine, in a container too; 0 where it is not told.
    pub machine: u64,
}

impl MemoryKills {
    /// Counts. Reads three small files.
    #[must_use]
    pub fn read() -> Self {
        let text = |path: &Path| fs::read_to_string(path).ok();
        let groups = control_groups(&text(Path::new("/proc/self/cgroup")).unwrap_or_default());
        // The own group comes first. In a container its path may be one of the machine outside; then only the root is
        // there, which is the container's own.
        let group = groups.iter().find_map(|group| {
            // Version 2, version 1.
            let events = ["memory.events", "memory.oom_control"].map(|name| text(&group.directory.join(name)));
            events.iter().flatten().find_map(|events| count(events))
        });
        let machine = text(Path::new("/proc/vmstat"));
        Self { group: group.unwrap_or_default(), machine: machine.and_then(|text| count(&text)).unwrap_or_default() }
    }
}

/// The line `oom_kill N`, as all three kinds of file have it.
fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_in_all_files_that_tell_of_them() {
        assert_eq!(count("low 0\nhigh 3\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\n"), None);
        assert_eq!(count("nr_free_pages 17\noom_kill 4\nnuma_hit 3\n"), Some(4));
    }
}
