//! What the machine tells when it is asked: GPUs, disks, and vllama's own process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use nix::unistd::{SysconfVar, sysconf};

use crate::gpu::{Gpu, Watch};

/// How long a file system may take to answer: one on a network may hang for ever.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where the figures of the machine come from.
#[derive(Debug, Default)]
pub struct Machine {
    gpus: Option<Watch>,
    volumes: Vec<(&'static str, PathBuf)>,
    engine_version: String,
    started: Option<SystemTime>,
    /// Whether somebody still waits for a file system.
    asking: Arc<AtomicBool>,
}

/// What it told.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub gpus: Vec<Gpu>,
    pub engine_version: String,
    pub volumes: Vec<Volume>,
    pub process: Process,
    /// Seconds since 1970.
    pub started: Option<f64>,
}

/// A file system.
#[derive(Debug)]
pub(super) struct Volume {
    pub name: &'static str,
    pub free: u64,
    pub size: u64,
}

/// vllama itself; `None` where `/proc` does not tell.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub resident: Option<u64>,
    pub descriptors: Option<u64>,
    pub most_descriptors: Option<u64>,
    pub processor_seconds: Option<f64>,
}

impl Machine {
    /// A machine with these GPUs, the directories of the models and of the state, and this version of vLLM.
    #[must_use]
    pub fn new(gpus: Option<Watch>, models: &Path, state: &Path, engine_version: String) -> Self {
        Self {
            gpus,
            volumes: vec![("models", models.into()), ("state", state.into())],
            engine_version,
            started: Some(SystemTime::now()),
            asking: Arc::default(),
        }
    }

    /// Asks all of it. A file system that does not answer in time is left out, and not asked again before it has.
    pub(super) async fn read(&self) -> Reading {
        let gpus = self.gpus.as_ref().and_then(Watch::latest).map_or_else(Vec::new, |reading| reading.gpus.clone());
        let started = self.started.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        Reading {
            gpus,
            engine_version: self.engine_version.clone(),
            volumes: self.volumes().await,
            process: Process::read(),
            started: started.map(|time| time.as_secs_f64()),
        }
    }

    async fn volumes(&self) -> Vec<Volume> {
        if self.asking.swap(true, Ordering::Relaxed) {
            return Vec::new();
        }
        let (volumes, asking) = (self.volumes.clone(), self.asking.clone());
        let asked = tokio::task::spawn_blocking(move || {
            let told = volumes.into_iter().filter_map(|(name, path)| Volume::read(name, &path)).collect();
            asking.store(false, Ordering::Relaxed);
            told
        });
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(volumes)) => volumes,
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }
}

impl Volume {
    fn read(name: &'static str, path: &Path) -> Option<Self> {
        // The state directory is made with the first engine; until then its parent's file system is where it will be.
        let path = path.ancestors().find(|path| path.exists())?;
        let told = statvfs(path).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(told.fragment_size());
        Some(Self { name, free: bytes(told.blocks_available()), size: bytes(told.blocks()) })
    }
}

impl Process {
    fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| u64::try_from(size).ok());
        let tick = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u32::try_from(ticks).ok());
        // One of them is open to count them.
        let descriptors = fs::read_dir("/proc/self/fd").ok().map(|open| open.count().saturating_sub(1) as u64);
        Self {
            resident: field(&stat, 24).zip(page).map(|(pages, size)| pages * size),
            descriptors,
            most_descriptors: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
            processor_seconds: processor_ticks(&stat).zip(tick).map(|(ticks, tick)| {
                #[expect(clippy::cast_precision_loss, reason = "centuries of ticks are exact")]
                let ticks = ticks as f64;
                ticks / f64::from(tick)
            }),
        }
    }
}

fn processor_ticks(stat: &str) -> Option<u64> {
    Some(field(stat, 14)? + field(stat, 15)?)
}

/// A field of `/proc/self/stat` by its number in proc(5); those from 3 on come after the name, which may hold anything.
fn field(stat: &str, number: usize) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read_whatever_the_program_is_called() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 3 0 1234 99 640 rest";
        assert_eq!((processor_ticks(stat), field(stat, 24)), (Some(300), Some(640)));
        assert_eq!((processor_ticks(""), field("7 (x) S", 24)), (None, None));
    }

    #[tokio::test]
    async fn the_machine_tells_of_its_disks_and_of_this_process() {
        let directory = tempfile::tempdir().expect("a directory");
        let missing = directory.path().join("not/there/yet");
        let machine = Machine::new(None, directory.path(), &missing, "1.2".to_owned());
        let reading = machine.read().await;
        assert_eq!(reading.volumes.iter().map(|volume| volume.name).collect::<Vec<_>>(), ["models", "state"]);
        assert!(reading.volumes.iter().all(|volume| volume.size > 0 && volume.free <= volume.size));
        let Process { resident, descriptors, most_descriptors, processor_seconds } = reading.process;
        assert!(resident > Some(1 << 20) && descriptors > Some(2) && most_descriptors > descriptors);
        assert!(processor_seconds >= Some(0.0) && reading.started > Some(1.7e9));
    }
}
