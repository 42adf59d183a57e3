//! What one start of an engine leaves in the file system, and how it is swept.
//!
//! Every start gets a directory of its own, `<run>/<engine>/g<N>/` (0700): socket, temporary files and ZMQ sockets live
//! there and go with it. Shared memory cannot be put there, so the segments that the engine's processes map are noted
//! and removed when the last of them is gone (vllm-engine §1.5).

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::command::PLACE;
use crate::init::{kill_strays, strays};

/// Where shared memory has its names.
const SHARED_MEMORY: &str = "/dev/shm";
/// Longest path a Unix socket may have, in bytes.
const SOCKET_PATH_LIMIT: usize = 107;
/// What vLLM appends to a generation's directory for a ZMQ socket: a slash and a UUID.
const LONGEST_NAME: usize = 37;

/// The place of one start.
#[derive(Debug)]
pub struct Generation {
    directory: PathBuf,
    /// Names below /dev/shm that processes of this generation had mapped, and the pids seen.
    segments: BTreeSet<String>,
    pids: BTreeSet<i32>,
}

impl Generation {
    /// Makes the directory for start `number` of the engine whose directory is `engine`.
    ///
    /// # Errors
    /// When the directory cannot be made, or its path is too long for the sockets in it.
    pub fn create(engine: &Path, number: u64) -> io::Result<Self> {
        let directory = engine.join(format!("g{number}"));
        if directory.as_os_str().len() + LONGEST_NAME > SOCKET_PATH_LIMIT {
            let text = format!(
                "the run directory's path is too long for Unix sockets ({}); choose a shorter one with --run-dir",
                directory.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(engine)?;
        // A directory of that name is from a vllama that was killed; nothing in it is alive any more.
        remove(&directory)?;
        DirBuilder::new().mode(0o700).create(&directory)?;
        Ok(Self { directory, segments: BTreeSet::new(), pids: BTreeSet::new() })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Notes the shared memory that these processes map now, or have open to map it.
    pub fn note_segments(&mut self, pids: &[i32]) {
        self.pids.extend(pids);
        let mut inodes = BTreeSet::new();
        for pid in pids {
            // A process may be gone by now.
            let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            inodes.extend(maps.lines().filter_map(mapped_segment));
            let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let open =
                open.filter(|entry| fs::read_link(entry.path()).is_ok_and(|path| path.starts_with(SHARED_MEMORY)));
            inodes.extend(open.filter_map(|entry| Some(fs::metadata(entry.path()).ok()?.ino())));
        }
        let there = fs::read_dir(SHARED_MEMORY).into_iter().flatten().flatten();
        let theirs = there.filter(|entry| inodes.contains(&entry.ino()));
        self.segments.extend(theirs.filter_map(|entry| entry.file_name().into_string().ok()));
    }

    /// Removes what engines of an earlier vllama left in this engine's directory: one that was killed could not. Gives
    /// the number of processes that were still alive. Blocks for at most ten seconds.
    ///
    /// # Errors
    /// When something could not be removed.
    pub fn clear_leftovers(engine: &Path) -> io::Result<usize> {
        let marker = format!("{PLACE}={}/", engine.display());
        let alive = strays(&marker);
        let mut leftover = Self { directory: engine.into(), segments: BTreeSet::new(), pids: BTreeSet::new() };
        leftover.note_segments(&alive);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !strays(&marker).is_empty() && Instant::now() < deadline {
            kill_strays(&marker);
            std::thread::sleep(Duration::from_millis(10));
        }
        leftover.sweep()?;
        Ok(alive.len())
    }

    /// Removes all that is left. Call it when no process of the generation lives any more.
    ///
    /// # Errors
    /// When something could not be removed.
    pub fn sweep(self) -> io::Result<()> {
        let openmp = self.pids.iter().map(|pid| format!("__KMP_REGISTERED_LIB_{pid}_0"));
        let mapped = self.segments.into_iter().filter(|name| is_engine_segment(name));
        for name in mapped.chain(openmp) {
            match fs::remove_file(Path::new(SHARED_MEMORY).join(&name)) {
                Ok(()) => tracing::debug!(segment = name, "removed shared memory the engine left behind"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(segment = name, %error, "cannot remove shared memory the engine left behind")
                }
            }
        }
        remove(&self.directory)?;
        // The engine's own directory goes with the last generation; it is made again for the next.
        let _ = self.directory.parent().map(fs::remove_dir);
        Ok(())
    }
}

/// Removes a directory that may not be there.
fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The inode below /dev/shm that a line of `/proc/<pid>/maps` tells of. Its path does not do: a semaphore is made under
/// a name that is deleted at once, after a second link to it, and whoever made it maps it under the deleted one for ever.
fn mapped_segment(line: &str) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace();
    let inode = fields.nth(4)?.parse().ok()?;
    Path::new(fields.next()?).starts_with(SHARED_MEMORY).then_some(inode)
}

/// Whether vLLM, Python or NCCL makes segments of that name. With `--ipc=host` an engine may map others' segments too.
fn is_engine_segment(name: &str) -> bool {
    ["psm_", "sem.mp-", "nccl-", "vllm_mm_", "torch_"].iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_generation_has_a_private_directory_and_leaves_nothing() {
        let run = tempfile::tempdir().expect("a directory");
        let stale = run.path().join("m/g1");
        fs::create_dir_all(&stale).expect("made");
        fs::write(stale.join("engine.sock"), "stale").expect("written");
        let generation = Generation::create(&run.path().join("m"), 1).expect("created");
        assert_eq!(fs::read_dir(generation.directory()).expect("read").count(), 0);
        let mode = fs::metadata(generation.directory()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        generation.sweep().expect("swept");
        assert!(!run.path().join("m").exists());
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused_with_what_to_do() {
        let run = tempfile::tempdir().expect("a directory");
        let error = Generation::create(&run.path().join("x".repeat(80)), 1).expect_err("too long");
        assert!(error.to_string().contains("--run-dir"), "{error}");
    }

    #[test]
    fn a_segment_is_found_by_whoever_has_it_under_a_name_that_is_gone() {
        let run = tempfile::tempdir().expect("a directory");
        let own = std::process::id();
        let [first, name] =
            ["sem.", "sem.mp-"].map(|prefix| Path::new(SHARED_MEMORY).join(format!("{prefix}test{own}")));
        let _held = fs::File::create(&first).expect("made");
        fs::hard_link(&first, &name).expect("linked");
        fs::remove_file(&first).expect("removed");
        let mut generation = Generation::create(run.path(), 1).expect("created");
        generation.note_segments(&[i32::try_from(own).expect("a pid")]);
        generation.sweep().expect("swept");
        assert!(!name.exists());
    }

    #[test]
    fn only_segments_of_engines_are_recognised() {
        assert_eq!(mapped_segment("7f00-7f01 rw-s 0 00:17 5  /dev/shm/psm_1a2b"), Some(5));
        assert_eq!(mapped_segment("7f00-7f01 rw-s 0 00:17 6  /dev/shm/sem.katKJV (deleted)"), Some(6));
        assert_eq!(mapped_segment("7f00-7f01 r-xp 0 00:17 5  /usr/lib/libc.so"), None);
        assert_eq!(mapped_segment("7f00-7f01 rw-p 0 00:00 0 "), None);
        assert!(is_engine_segment("psm_1") && !is_engine_segment("postgres.1"));
    }
}
