//! From a plan to the engine's command line and environment. Pure: the same plan gives the same bytes, which vLLM's
//! compile cache depends on (vllm-engine §2.4).

use std::path::{Path, PathBuf};

use crate::model::plan::{Choice, Device, Plan};

/// The vLLM installation engines are started from; the same for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The `vllm` program.
    pub program: PathBuf,
    /// Libraries to preload on the CPU, as found: an allocator and OpenMP, worth some 7 % of speed.
    pub preloads: Vec<PathBuf>,
    /// Directory for vLLM's caches; survives restarts.
    pub cache: PathBuf,
    /// vllama's own environment as far as engines get it.
    pub environment: Vec<(String, String)>,
}

/// The variable that tells every process of an engine its generation's directory. vLLM puts its ZMQ sockets there.
pub const PLACE: &str = "VLLM_RPC_BASE_PATH";

/// A command line and a complete environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The program to run.
    pub program: PathBuf,
    /// Its arguments, without the program's name.
    pub arguments: Vec<String>,
    /// Its whole environment, sorted by name.
    pub environment: Vec<(String, String)>,
}

/// Makes the command that starts `plan` in the generation directory `place`.
#[must_use]
pub fn command(plan: &Plan, installation: &Installation, place: &Path) -> Command {
    let mut arguments = vec![
        "serve".to_owned(),
        text(&plan.checkpoint),
        "--uds".to_owned(),
        text(&socket(place)),
        "--served-model-name".to_owned(),
        plan.checkpoint_name.clone(),
    ];
    for Choice { name, value, more, .. } in &plan.flags {
        arguments.push((*name).to_owned());
        arguments.extend(value.iter().chain(more).cloned());
    }
    arguments.extend(plan.extra_arguments.iter().cloned());

    let cache = |name: &str| text(&installation.cache.join(name));
    let mut environment: std::collections::BTreeMap<String, String> = [
        ("VLLM_CACHE_ROOT", cache("vllm")),
        ("TRITON_CACHE_DIR", cache("triton")),
        // By default in TMPDIR, which goes with the generation and where nothing may be executed on a usual /run.
        ("TORCHINDUCTOR_CACHE_DIR", cache("inductor")),
        ("FLASHINFER_WORKSPACE_BASE", cache("flashinfer")),
        ("CUDA_CACHE_PATH", cache("cuda")),
        ("HF_HOME", cache("huggingface")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    environment.extend(
        plan.environment.iter().map(|choice| (choice.name.to_owned(), choice.value.clone().unwrap_or_default())),
    );
    // What the operator set wins over what was chosen, and what is for this model alone over that; what belongs to this
    // generation wins over all.
    environment.extend(installation.environment.iter().filter(|(name, value)| is_for_engines(name, value)).cloned());
    environment.extend(plan.extra_environment.iter().cloned());
    if plan.device == Device::Cpu && !installation.preloads.is_empty() {
        let list: Vec<_> = installation.preloads.iter().map(|library| text(library)).collect();
        let before = environment.get("LD_PRELOAD").map(|theirs| format!("{theirs}:")).unwrap_or_default();
        environment.insert("LD_PRELOAD".into(), before + &list.join(":"));
    }
    for (name, value) in [("TMPDIR", text(place)), (PLACE, text(place))] {
        environment.insert(name.into(), value);
    }
    Command { program: installation.program.clone(), arguments, environment: environment.into_iter().collect() }
}

/// The engine's socket in its generation directory.
#[must_use]
pub fn socket(place: &Path) -> PathBuf {
    place.join("engine.sock")
}

/// Whether engines may see this variable of vllama's own environment: not vllama's settings, not its supervisor's
/// sockets, no token, and not the `VLLM_PORT=tcp://…` that Kubernetes injects beside a Service called "vllm", on which
/// vLLM stops (vllm-engine §10).
fn is_for_engines(name: &str, value: &str) -> bool {
    let ours = name.starts_with("VLLAMA_") || name.starts_with("OLLAMA_") || name.starts_with("LISTEN_");
    let secret = matches!(name, "NOTIFY_SOCKET" | "HF_TOKEN" | "HUGGING_FACE_HUB_TOKEN");
    let injected = name == "VLLM_PORT" && value.parse::<u16>().is_err();
    !(ours || secret || injected)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::plan::sample;

    fn plan(device: Device) -> Plan {
        let mut plan = sample::plan(device, 0, &[("--max-model-len", "auto"), ("NO_COLOR", "1")]);
        plan.flags.push(sample::choice("--enforce-eager", None));
        Plan {
            checkpoint: "/models/smollm2".into(),
            served_name: "smollm2:135m".into(),
            checkpoint_name: "smollm2:135m".into(),
            extra_arguments: vec!["--seed".into(), "7".into()],
            extra_environment: vec![("NCCL_DEBUG".into(), "WARN".into())],
            ..plan
        }
    }

    fn installation(environment: &[(&str, &str)]) -> Installation {
        Installation {
            program: "/venv/bin/vllm".into(),
            preloads: vec!["/lib/libtcmalloc.so".into(), "/venv/lib/libiomp5.so".into()],
            cache: "/cache".into(),
            environment: environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        }
    }

    fn variable(command: &Command, name: &str) -> Option<String> {
        command.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn the_command_line_is_the_golden_one() {
        let command = command(&plan(Device::Cpu), &installation(&[("PATH", "/bin")]), Path::new("/run/vllama/m/g1"));
        assert_eq!(command.program, Path::new("/venv/bin/vllm"));
        assert_eq!(
            command.arguments.join(" "),
            "serve /models/smollm2 --uds /run/vllama/m/g1/engine.sock --served-model-name smollm2:135m \
             --max-model-len auto --enforce-eager --seed 7"
        );
        let environment: Vec<_> = command.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            environment.join("\n"),
            "CUDA_CACHE_PATH=/cache/cuda\nFLASHINFER_WORKSPACE_BASE=/cache/flashinfer\nHF_HOME=/cache/huggingface\n\
             LD_PRELOAD=/lib/libtcmalloc.so:/venv/lib/libiomp5.so\nNCCL_DEBUG=WARN\nNO_COLOR=1\nPATH=/bin\nTMPDIR=/run/vllama/m/g1\n\
             TORCHINDUCTOR_CACHE_DIR=/cache/inductor\nTRITON_CACHE_DIR=/cache/triton\nVLLM_CACHE_ROOT=/cache/vllm\n\
             VLLM_RPC_BASE_PATH=/run/vllama/m/g1"
        );
    }

    #[test]
    fn the_operators_variables_win_but_vllamas_own_and_tokens_stay_here() {
        let theirs = [
            ("VLLM_CACHE_ROOT", "/elsewhere"),
            ("TMPDIR", "/tmp"),
            ("OLLAMA_HOST", "x"),
            ("VLLAMA_STATE", "x"),
            ("HF_TOKEN", "secret"),
            ("VLLM_PORT", "tcp://10.0.0.1:80"),
            ("LD_PRELOAD", "/theirs.so"),
        ];
        let command = command(&plan(Device::Cuda), &installation(&theirs), Path::new("/run/g1"));
        assert_eq!(variable(&command, "VLLM_CACHE_ROOT").as_deref(), Some("/elsewhere"));
        assert_eq!(variable(&command, "TMPDIR").as_deref(), Some("/run/g1"));
        assert_eq!(variable(&command, "LD_PRELOAD").as_deref(), Some("/theirs.so"));
        for name in ["OLLAMA_HOST", "VLLAMA_STATE", "HF_TOKEN", "VLLM_PORT"] {
            assert_eq!(variable(&command, name), None, "{name}");
        }
    }
}
