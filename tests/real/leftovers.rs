//! Shared memory that engines of these tests left behind.

use std::fs;
use std::sync::LazyLock;

/// What was there before the first engine of these tests: other programs of this machine may have left it.
static BEFORE: LazyLock<Vec<String>> = LazyLock::new(segments);

/// Remembers what is there already; call it before the first engine starts.
pub(crate) fn remember() {
    LazyLock::force(&BEFORE);
}

/// Names in /dev/shm that an engine makes, that are new, and that no living process has mapped: ours are dead by the time
/// they are looked for, and what is still in use belongs to others.
pub(crate) fn leftovers() -> Vec<String> {
    let new: Vec<String> = segments().into_iter().filter(|name| !BEFORE.contains(name)).collect();
    if new.is_empty() {
        return new;
    }
    let maps: Vec<String> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|process| fs::read_to_string(process.path().join("maps")).ok())
        .collect();
    new.into_iter().filter(|name| !maps.iter().any(|maps| maps.contains(&format!("/dev/shm/{name}")))).collect()
}

fn segments() -> Vec<String> {
    let names = fs::read_dir("/dev/shm").unwrap().flatten();
    names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| {
            ["psm_", "sem.mp-", "__KMP_"].iter().any(|prefix| name.starts_with(prefix)) && !name.starts_with("psm_fake")
        })
        .collect()
}
