//! The table of checks: each judges facts and nothing else, and says what is wrong, why that matters and what to do.

use super::engine_version::{is_older, pinned};
use super::facts::{Answer, Facts, Place, Port};
use super::finding::{Finding, error, warning, well};
use crate::gpu::Host;

/// One check.
struct Check {
    name: &'static str,
    judge: fn(&Facts) -> Vec<Finding>,
}

/// All checks, in the order they are told.
const CHECKS: &[Check] = &[
    Check { name: "engine", judge: engine },
    Check { name: "gpus", judge: gpus },
    Check { name: "memory", judge: memory },
    Check { name: "shared memory", judge: shared_memory },
    Check { name: "run directory", judge: run_directory },
    Check { name: "logs", judge: state },
    Check { name: "cache", judge: cache },
    Check { name: "models", judge: models },
    Check { name: "store", judge: store },
    Check { name: "port", judge: port },
    Check { name: "limits", judge: limits },
];

/// What vLLM's processes need beside weights and cache on the CPU: each imports torch, in bytes.
const PROCESS_MEMORY: u64 = 3 << 30;
/// vLLM's broadcast ring, and the ring of each worker (vllm-engine §1.5), in bytes.
const BROADCAST_RING: u64 = 17 * (1 << 30) / 100;
const WORKER_RING: u64 = (1 << 30) / 4;
/// What /dev/shm should have: room for NCCL and data loaders too, in bytes.
const SHARED_MEMORY_RECOMMENDED: u64 = 2 << 30;
/// A disk with less than this left is nearly full, in bytes.
const NEARLY_FULL: u64 = 1 << 30;
/// Less than this and the next model does not fit, in bytes.
const ROOM_FOR_A_MODEL: u64 = 10 << 30;
/// Descriptors an engine wants (vllm-engine §1.5).
const ENGINE_DESCRIPTORS: u64 = 65_535;
/// Longest path of a run directory, in bytes: 107 for a socket, less a slash and a UUID for vLLM's own (37), a generation
/// (`/g` and up to five digits) and an engine's name (a slash, twelve letters, a dash, eight digits).
const RUN_PATH_LIMIT: usize = 107 - 37 - 7 - 22;

/// Judges everything.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let named = |check: &Check| {
        let name = check.name;
        (check.judge)(facts).into_iter().map(move |finding| Finding { check: name, ..finding })
    };
    CHECKS.iter().flat_map(named).collect()
}

/// What is to be said where there is no answer; a check that could not look has found something, too.
fn no_answer(subject: &str, why: &str, fix: &str) -> Vec<Finding> {
    vec![warning(format!("cannot look at {subject}"), why, fix)]
}

fn engine(facts: &Facts) -> Vec<Finding> {
    let program = match &facts.engine {
        Ok(program) => program,
        Err(why) => return no_answer("the engine", why, "check the file system it is on"),
    };
    let path = program.path.display();
    let tell = "install vLLM, or tell where its `vllm` program is with --engine or VLLAMA_ENGINE";
    if !program.exists {
        return vec![error("cannot find vLLM", format!("there is no program {path}"), tell)];
    }
    if !program.runs {
        let fix = format!("give this user leave to run it: `chmod +x {path}`");
        return vec![error("cannot run vLLM", format!("{path} is not executable for this user"), fix)];
    }
    vec![match &program.version {
        None => well(format!("{path}; its version cannot be told from its files, {} is expected", pinned())),
        Some(version) if is_older(version, pinned()) => warning(
            format!("vLLM {version} is old"),
            format!("vllama is made for {} and newer; flags and routes may be missing", pinned()),
            format!("install vLLM {}", pinned()),
        ),
        Some(version) => well(format!("vLLM {version}, {path}")),
    }]
}

fn gpus(facts: &Facts) -> Vec<Finding> {
    if !facts.host.as_ref().is_ok_and(|host| host.nvidia) {
        return vec![well("no NVIDIA driver: engines run on the CPU")];
    }
    let reading = match &facts.gpus {
        Ok(Some(reading)) => reading,
        Ok(None) => {
            let fix = "put vllama-gpu beside vllama, or name it with --gpu-helper";
            return vec![warning("the GPUs are unknown", "vllama-gpu, which asks the driver, has told nothing", fix)];
        }
        Err(why) => {
            let fix = "try `nvidia-smi`; if it hangs too, the driver is wedged: look at `dmesg` for Xid errors, then reset \
                       the GPU or restart the machine";
            return vec![error("the NVIDIA driver does not answer", why, fix)];
        }
    };
    if reading.gpus.is_empty() {
        let why = reading.reason.as_deref().unwrap_or("the driver names none");
        let fix = "give the container its GPUs: `--gpus all`, or in Compose a device reservation";
        return vec![error("there is an NVIDIA driver but no GPU", why, fix)];
    }
    let gpu = |gpu: &crate::gpu::Gpu| {
        let name = gpu.name.as_deref().unwrap_or("a GPU");
        match (gpu.memory_free, gpu.memory_total) {
            (Some(free), Some(total)) => format!("{name} ({} of {} free)", gibibytes(free), gibibytes(total)),
            _ => name.to_owned(),
        }
    };
    vec![well(reading.gpus.iter().map(gpu).collect::<Vec<_>>().join(", "))]
}

fn memory(facts: &Facts) -> Vec<Finding> {
    let host = match &facts.host {
        Ok(host) => host,
        Err(why) => return no_answer("the memory", why, "check that /proc and /sys are mounted"),
    };
    let Host { nvidia, memory_available, memory_total, .. } = *host;
    let (free, needed) = (gibibytes(memory_available), gibibytes(PROCESS_MEMORY));
    let fix =
        "free memory, or raise the container's limit (`--memory`, in Compose `mem_limit`, in a unit `MemoryMax=`)";
    vec![match (memory_available < PROCESS_MEMORY, nvidia) {
        (true, false) => {
            error("not enough memory for an engine on the CPU", format!("{free} are free, {needed} are needed"), fix)
        }
        (true, true) => warning(
            format!("only {free} of main memory are free"),
            format!("engines on GPUs have processes too, and need about {needed}"),
            fix,
        ),
        (false, _) => well(format!("{free} of {} free", gibibytes(memory_total))),
    }]
}

fn shared_memory(facts: &Facts) -> Vec<Finding> {
    let fix = "give the container more with `--shm-size=2g` (Compose: `shm_size: 2g`, Kubernetes: an emptyDir with \
               `medium: Memory` at /dev/shm)";
    let space = match &facts.shared_memory {
        Ok(space) => space,
        Err(why) => return vec![error("cannot look at /dev/shm", why, "mount a tmpfs of 2 GiB there")],
    };
    let gpus = match &facts.gpus {
        Ok(Some(reading)) => reading.gpus.len() as u64,
        _ => 0,
    };
    let on_cpu = !facts.host.as_ref().is_ok_and(|host| host.nvidia);
    let workers = if on_cpu { 1 } else { gpus };
    let needed = BROADCAST_RING + workers * WORKER_RING;
    let why = format!("{} MiB are free, {} MiB are needed", space.free >> 20, needed >> 20);
    vec![if on_cpu && space.free < needed {
        error("/dev/shm is too small for an engine on the CPU", why, fix)
    } else if workers > 1 && space.free < needed {
        warning(format!("/dev/shm is too small for an engine on all {workers} GPUs"), why, fix)
    } else if space.total < SHARED_MEMORY_RECOMMENDED {
        let what = format!("/dev/shm has {} MiB", space.total >> 20);
        warning(what, "engines on several GPUs, images and NCCL take more; 2 GiB are recommended", fix)
    } else {
        well(format!("{} of {} free", gibibytes(space.free), gibibytes(space.total)))
    }]
}

fn run_directory(facts: &Facts) -> Vec<Finding> {
    let place = match &facts.run {
        Ok(place) => place,
        Err(why) => return no_answer("the run directory", why, "choose another with --run-dir or VLLAMA_RUN"),
    };
    let path = place.path.display();
    let fix = "choose another with --run-dir or VLLAMA_RUN, e.g. /run/vllama";
    if place.path.as_os_str().len() > RUN_PATH_LIMIT {
        let why = format!("{path} has more than {RUN_PATH_LIMIT} bytes, and a path to a socket in it no more than 107");
        return vec![error("the run directory's path is too long for Unix sockets", why, fix)];
    }
    if let Some(why) = &place.not_writable {
        return vec![error(format!("cannot use the run directory {path}"), why, fix)];
    }
    vec![match place.mode {
        Some(mode) if mode & 0o077 != 0 || !place.is_ours => warning(
            format!("others may look into the run directory {path}"),
            format!(
                "its permissions are {mode:04o} or it belongs to another user; who reaches a socket in it reaches an engine"
            ),
            format!("`chown` it to the user of vllama and `chmod 0700 {path}`"),
        ),
        _ => well(path.to_string()),
    }]
}

fn state(facts: &Facts) -> Vec<Finding> {
    let setting = "--state-dir or VLLAMA_STATE";
    directory(&facts.state, &Wanted { subject: "the logs", setting, enough: NEARLY_FULL, lasting: false, needed: true })
}

fn cache(facts: &Facts) -> Vec<Finding> {
    let (subject, setting) = ("vLLM's caches", "--state-dir or VLLAMA_STATE");
    directory(&facts.cache, &Wanted { subject, setting, enough: NEARLY_FULL, lasting: true, needed: true })
}

fn models(facts: &Facts) -> Vec<Finding> {
    let (subject, setting) = ("the models", "--models-dir or VLLAMA_MODELS");
    directory(&facts.models, &Wanted { subject, setting, enough: ROOM_FOR_A_MODEL, lasting: true, needed: false })
}

/// What a directory should be.
struct Wanted {
    /// What lies in it.
    subject: &'static str,
    /// How to choose another.
    setting: &'static str,
    /// Free space that suffices, in bytes.
    enough: u64,
    /// Whether it should outlive a container.
    lasting: bool,
    /// Whether engines have to write there.
    needed: bool,
}

fn directory(place: &Answer<Place>, wanted: &Wanted) -> Vec<Finding> {
    let Wanted { subject, setting, .. } = wanted;
    let place = match place {
        Ok(place) => place,
        Err(why) => {
            let fix = format!("check the file system it is on, or choose another with {setting}");
            return no_answer(&format!("the directory of {subject}"), why, &fix);
        }
    };
    let path = place.path.display();
    if let Some(why) = &place.not_writable {
        let what = format!("cannot write the directory of {subject}, {path}");
        let fix = format!("give this user leave to write there, or choose another with {setting}");
        return vec![if wanted.needed { error(what, why, fix) } else { warning(what, why, fix) }];
    }
    let mut findings = Vec::new();
    if wanted.lasting && place.on_overlay {
        findings.push(warning(
            format!("{subject} lie in the container itself, in {path}"),
            "what is there is gone with the container, and must be loaded or compiled again",
            format!("mount a volume there: `-v vllama:{path}`"),
        ));
    }
    if place.space.free < wanted.enough {
        findings.push(warning(
            format!("the disk of {subject} is nearly full"),
            format!("{} are free in {path}", gibibytes(place.space.free)),
            "make room, or choose a larger disk",
        ));
    }
    if findings.is_empty() {
        findings.push(well(format!("{path}, {} free", gibibytes(place.space.free))));
    }
    findings
}

fn store(facts: &Facts) -> Vec<Finding> {
    let inspection = match &facts.store {
        Ok(inspection) => inspection,
        Err(why) => return no_answer("the model store", why, "check the file system and its permissions"),
    };
    let mut findings = Vec::new();
    for (manifest, why) in &inspection.broken {
        let fix = "get the model again (`ollama pull NAME`), or delete it (`ollama rm NAME`)";
        findings.push(warning(format!("{} is not a whole model", manifest.display()), why, fix));
    }
    if inspection.leftovers > 0 {
        findings.push(warning(
            format!("{} left in the store", counted(inspection.leftovers, "unfinished model")),
            "whoever built them was killed",
            "nothing: the next start of vllama removes them",
        ));
    }
    if let Some(first) = inspection.foreign.first() {
        findings.push(warning(
            format!("{} in the store of another user than the store's own", counted(inspection.foreign.len(), "file")),
            format!("vllama may be unable to read, replace or delete them; the first is {}", first.display()),
            "`chown -R` the store to the user of vllama",
        ));
    }
    if findings.is_empty() {
        findings.push(well(match (inspection.models, inspection.base_models) {
            (0, 0) => "empty: get a model with `ollama pull NAME`".to_owned(),
            (own, 0) => format!("{}, all whole", counted(own, "model")),
            (own, base) => format!("{}, all whole, {base} of them from the image", counted(own + base, "model")),
        }));
    }
    findings
}

fn port(facts: &Facts) -> Vec<Finding> {
    let fix = "stop what uses the port (another vllama, or ollama?), or choose another with OLLAMA_HOST=127.0.0.1:PORT";
    match &facts.port {
        Ok(Port::NotAsked) => Vec::new(),
        Ok(Port::Free(address)) => vec![well(format!("{address} is free"))],
        Ok(Port::Vllama(address, version)) => vec![well(format!("vllama {version} serves on {address}"))],
        Ok(Port::Taken(address, why)) => vec![error(format!("cannot listen on {address}"), why, fix)],
        Err(why) => no_answer("the port", why, fix),
    }
}

fn limits(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (descriptors, wanted) = (facts.limits.descriptors, ENGINE_DESCRIPTORS.max(facts.max_connections as u64 * 2));
    if descriptors < wanted {
        findings.push(warning(
            format!("no more than {descriptors} open files are allowed"),
            format!("an engine wants {ENGINE_DESCRIPTORS}, and every connection two"),
            format!("raise the limit: `--ulimit nofile={wanted}:{wanted}`, in a unit `LimitNOFILE={wanted}`"),
        ));
    }
    let several = facts.gpus.as_ref().is_ok_and(|gpus| gpus.as_ref().is_some_and(|reading| reading.gpus.len() > 1));
    if several && facts.limits.locked != u64::MAX {
        findings.push(warning(
            format!("only {} KiB may be locked in memory", facts.limits.locked >> 10),
            "GPUs that exchange data want to lock more",
            "raise the limit: `--ulimit memlock=-1`, in a unit `LimitMEMLOCK=infinity`",
        ));
    }
    if findings.is_empty() {
        findings
            .push(well(format!("{descriptors} open files; vllama raises the soft limit and switches core dumps off")));
    }
    findings
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
