//! What must be true before a server makes sense; each finding says what to do.

use std::path::Path;
use std::sync::Arc;

use crate::cli::problem::Problem;
use crate::config::Config;
use crate::engine::Installation;
use crate::gpu::Host;
use crate::model::{Installed, ModelName, Store};

/// The model that `make run` and the images install.
const DEFAULT_MODEL: &str = "smollm2:135m";
/// Below this, an engine on the CPU cannot make its shared-memory rings (vllm-engine §1.5), in bytes.
const SHARED_MEMORY: u64 = 450 << 20;
/// What vLLM's processes need beside weights and cache: each imports torch, in bytes.
const PROCESS_MEMORY: u64 = 3 << 30;

/// The model to load at the start: the one that was named, the only one that is installed, or the default one if that
/// is installed. Without one the server waits for the first request.
pub(super) fn model(store: &Store, config: &Config) -> Result<Option<Arc<Installed>>, Problem> {
    let installed = store.list();
    let Some(wanted) = &config.model else {
        if let [only] = &*installed {
            return Ok(Some(only.clone()));
        }
        return Ok(ModelName::parse(DEFAULT_MODEL).ok().and_then(|name| store.find(&name)));
    };
    let found = store.find(wanted).ok_or_else(|| {
        let names: Vec<_> = installed.iter().map(|model| model.manifest.name.as_str()).collect();
        let others =
            if names.is_empty() { "nothing is".to_owned() } else { format!("installed: {}", names.join(", ")) };
        Problem::new(
            format!("cannot serve '{wanted}'"),
            format!("it is not installed in {} ({others})", config.models.display()),
            format!("install it with `vllama import FILE.gguf {wanted}`, or name an installed model"),
        )
    })?;
    Ok(Some(found))
}

/// Whether an engine could start at all: program, memory, shared memory.
pub(super) fn engine(config: &Config) -> Result<(), Problem> {
    let program = &config.engine;
    if !program.is_file() {
        return Err(Problem::new(
            "cannot find vLLM",
            format!("there is no program {}", program.display()),
            "install vLLM, or tell where its `vllm` program is with --engine or VLLAMA_ENGINE",
        ));
    }
    let shared_memory = nix::sys::statvfs::statvfs("/dev/shm")
        .map(|status| status.blocks_available() * status.fragment_size())
        .map_err(|error| Problem::new("cannot look at /dev/shm", error, "mount a tmpfs of 2 GiB there"))?;
    enough(&Host::read(), shared_memory)
}

/// Whether memory and shared memory (bytes that are free) suffice for an engine; a GPU's own are vLLM's to judge.
fn enough(host: &Host, shared_memory: u64) -> Result<(), Problem> {
    if host.nvidia {
        return Ok(());
    }
    if host.memory_available < PROCESS_MEMORY {
        return Err(Problem::new(
            "not enough memory for an engine on the CPU",
            format!("{} are free, {} are needed", gibibytes(host.memory_available), gibibytes(PROCESS_MEMORY)),
            "free memory, or raise the container's limit (`--memory`)",
        ));
    }
    if shared_memory < SHARED_MEMORY {
        return Err(Problem::new(
            "/dev/shm is too small for an engine on the CPU",
            format!("{} MiB are free, {} MiB are needed", shared_memory >> 20, SHARED_MEMORY >> 20),
            "give the container more with `--shm-size=2g` (Compose: `shm_size: 2g`)",
        ));
    }
    Ok(())
}

/// Main memory in bytes; the control group's limit counts.
pub(super) fn main_memory() -> u64 {
    Host::read().memory_total
}

/// Main memory that sleeping engines may take, in bytes: half of what is free at the start, as engines
/// that are awake, and everybody else, need some too.
pub(super) fn sleeping_memory() -> u64 {
    Host::read().memory_available / 2
}

/// The installation engines are started from.
pub(super) fn installation(config: &Config) -> Installation {
    // `<venv>/bin/vllm`: the libraries lie in `<venv>/lib`.
    let libraries = config.engine.parent().and_then(Path::parent).map(|venv| venv.join("lib").join("libiomp5.so"));
    let allocator = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"]
        .map(|directory| Path::new(directory).join("libtcmalloc_minimal.so.4"));
    Installation {
        program: config.engine.clone(),
        preloads: allocator.into_iter().chain(libraries).filter(|library| library.is_file()).collect(),
        cache: config.state.join("cache"),
        environment: config.environment.clone(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: u64 = 64 << 30;

    #[test]
    fn too_little_memory_and_too_little_shared_memory_say_what_to_do() {
        let cpu = |memory_available| Host { nvidia: false, bfloat16: false, memory_available, memory_total: PLENTY };
        assert!(enough(&cpu(PLENTY), PLENTY).is_ok());
        let memory = enough(&cpu(1 << 30), PLENTY).expect_err("too little").to_string();
        assert!(memory.contains("1.0 GiB are free") && memory.contains("--memory"), "{memory}");
        let shared = enough(&cpu(PLENTY), 64 << 20).expect_err("Docker's default").to_string();
        assert!(shared.contains("64 MiB are free") && shared.contains("--shm-size=2g"), "{shared}");
    }

    #[test]
    fn an_engine_on_a_gpu_needs_little_of_either() {
        assert!(enough(&Host { nvidia: true, bfloat16: false, memory_available: 1, memory_total: 1 }, 1).is_ok());
    }
}
