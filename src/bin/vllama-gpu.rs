//! `vllama-gpu`: asks the NVIDIA driver how its GPUs are and prints one JSON line a second, a [`Reading`].
//!
//! A program of its own, dynamically linked, because `vllama` is static and cannot load the driver's library, and because
//! a call into a wedged driver may never return: then this process hangs and nobody else.
//!
//! No driver is a normal answer: `{"gpus":[],"reason":"no NVIDIA driver: …"}`. It ends, with 0, when nobody reads its
//! output any more or its parent dies. `--once` prints one line and ends.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use vllama::gpu::{Gpu, Process, Reading};

/// Time between two lines.
const BEAT: Duration = Duration::from_secs(1);

/// Longest path of a program that is asked for, in bytes.
const LONGEST_PATH: usize = 4096;

/// Time between two attempts to find a driver.
const RETRY: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let once = match arguments.as_slice() {
        [] => false,
        [only] if only == "--once" => true,
        _ => {
            eprintln!("usage: vllama-gpu [--once]\nPrints the state of the NVIDIA GPUs as one JSON line a second.");
            return ExitCode::from(2);
        }
    };
    if !once {
        // Only a quicker end: where it fails, the next line finds nobody to read it.
        let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    }
    let mut driver = Driver::open();
    loop {
        let beat = Instant::now();
        if print(&driver.read()).is_err() || once {
            return ExitCode::SUCCESS;
        }
        std::thread::sleep(BEAT.saturating_sub(beat.elapsed()));
    }
}

/// Prints one line; an error when nobody reads.
fn print(reading: &Reading) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(reading)?;
    line.push(b'\n');
    let mut output = std::io::stdout().lock();
    output.write_all(&line)?;
    output.flush()
}

/// The driver, or why there is none and when we last looked.
enum Driver {
    Open(Box<Nvml>),
    Missing { reason: String, looked: Instant },
}

impl Driver {
    fn open() -> Self {
        // Loads libnvidia-ml.so.1, which every driver installs.
        Nvml::init().map_or_else(|error| Self::missing(&error), |nvml| Self::Open(Box::new(nvml)))
    }

    fn missing(error: &NvmlError) -> Self {
        Self::Missing { reason: format!("no NVIDIA driver: {error}"), looked: Instant::now() }
    }

    fn read(&mut self) -> Reading {
        if let Self::Missing { looked, .. } = self
            && looked.elapsed() >= RETRY
        {
            *self = Self::open();
        }
        match self {
            Self::Missing { reason, .. } => Reading { gpus: Vec::new(), reason: Some(reason.clone()) },
            Self::Open(nvml) => match nvml.device_count() {
                Ok(count) => Reading { gpus: (0..count).map(|index| gpu(nvml, index)).collect(), reason: None },
                Err(error) => {
                    *self = Self::missing(&error);
                    self.read()
                }
            },
        }
    }
}

fn gpu(nvml: &Nvml, index: u32) -> Gpu {
    // A GPU that has fallen off the bus keeps its place in the list, with nothing known.
    nvml.device_by_index(index).map_or_else(|_| Gpu::default(), |device| figures(nvml, &device))
}

fn figures(nvml: &Nvml, device: &Device<'_>) -> Gpu {
    let memory = device.memory_info().ok();
    Gpu {
        name: device.name().ok(),
        uuid: device.uuid().ok(),
        memory_total: memory.as_ref().map(|memory| memory.total),
        memory_used: memory.as_ref().map(|memory| memory.used),
        memory_free: memory.as_ref().map(|memory| memory.free),
        utilization: device.utilization_rates().ok().map(|rates| rates.gpu),
        temperature: device.temperature(TemperatureSensor::Gpu).ok(),
        compute_capability: device
            .cuda_compute_capability()
            .ok()
            .and_then(|version| Some((u32::try_from(version.major).ok()?, u32::try_from(version.minor).ok()?))),
        ecc_errors: device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile).ok(),
        power: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1000.0),
        processes: processes(nvml, device),
    }
}

/// Who holds its memory, the greediest first.
fn processes(nvml: &Nvml, device: &Device<'_>) -> Vec<Process> {
    // Drivers tell of those that compute and those that draw in two lists.
    let lists = [device.running_compute_processes(), device.running_graphics_processes()];
    let mut processes: Vec<Process> = Vec::new();
    for found in lists.into_iter().flatten().flatten() {
        let memory = match found.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        };
        if processes.iter().all(|known| known.pid != found.pid) {
            processes.push(Process { pid: found.pid, name: program(nvml, found.pid), memory });
        }
    }
    processes.sort_by_key(|process| std::cmp::Reverse(process.memory));
    processes
}

/// The file name of the program that a process runs, which the driver tells with its path.
fn program(nvml: &Nvml, pid: u32) -> String {
    let path = nvml.sys_process_name(pid, LONGEST_PATH).unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default().to_owned()
}
