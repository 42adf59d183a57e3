//! Plans for tests that need one and do not care how it came about.

use super::{Choice, Device, Frontend, Memory, Plan};

/// A plan of these choices: those that begin with dashes are flags, the others variables.
pub(crate) fn plan(device: Device, gpus: usize, choices: &[(&'static str, &str)]) -> Plan {
    let chosen = |flags: bool| {
        let of_kind = choices.iter().filter(move |(name, _)| name.starts_with("--") == flags);
        of_kind.map(|(name, value)| choice(name, Some(value))).collect()
    };
    Plan {
        checkpoint: "/models/m".into(),
        served_name: "m".into(),
        checkpoint_name: "m".into(),
        device,
        gpus,
        frontend: Frontend::Python,
        flags: chosen(true),
        environment: chosen(false),
        left_out: Vec::new(),
        extra_arguments: Vec::new(),
        extra_environment: Vec::new(),
        memory: Memory::default(),
        concurrency: 256,
        refusal: None,
        changes: Vec::new(),
    }
}

/// One choice; `None` for a flag without a value.
pub(crate) fn choice(name: &'static str, value: Option<&str>) -> Choice {
    Choice { name, value: value.map(str::to_owned), more: Vec::new(), reason: "chosen".into() }
}
