//! A plan as people read it.

use std::fmt::{self, Write as _};

use super::{Checkpoint, Choice, Device, Hardware, Plan, cache_bytes_per_token, cache_tokens, gibibytes};
use crate::model::Card;

/// Longest name of a choice that gets a column of its own.
const WIDEST: usize = 44;

impl Plan {
    /// The plan, the facts it was made from, and every choice with its reason.
    #[must_use]
    pub fn explain(&self, checkpoint: &Checkpoint<'_>, hardware: &Hardware) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = self.write(&mut text, checkpoint, hardware);
        text
    }

    fn write(&self, text: &mut String, checkpoint: &Checkpoint<'_>, hardware: &Hardware) -> fmt::Result {
        let card = checkpoint.card;
        let machine = hardware.describe();
        let part = match self.device {
            Device::Cuda if hardware.gpus.len() != 1 => format!("{} of ", self.gpus),
            _ => "the ".to_owned(),
        };
        writeln!(text, "{} on {part}{machine}", self.served_name)?;
        if let Some(refusal) = &self.refusal {
            writeln!(text, "\n✗ {}\n  {}\n  → {}", refusal.what, refusal.why, refusal.fix)?;
        }
        writeln!(text, "\nCheckpoint")?;
        for (name, value) in facts(card) {
            writeln!(text, "  {name:<14} {value}")?;
        }
        let each = if self.gpus > 1 { " on each GPU" } else { "" };
        writeln!(text, "\nMemory, estimated{each}")?;
        let size = self.value_size();
        let room =
            cache_tokens(card, self.memory.cache, self.gpus as u64, size, 2048).filter(|_| self.memory.cache > 0);
        let room = room.map(|tokens| format!("  {tokens} tokens")).unwrap_or_default();
        for (name, bytes, note) in [
            ("weights", self.memory.weights, String::new()),
            ("cache", self.memory.cache, room),
            ("overhead", self.memory.overhead, String::new()),
            ("total", self.memory.total(), String::new()),
        ] {
            writeln!(text, "  {name:<14} {:>10}{note}", gibibytes(bytes))?;
        }
        writeln!(text, "  {:<14} {:>10}", "requests", format!("{} at most", self.concurrency))?;
        if !self.changes.is_empty() {
            writeln!(text, "\nChanged, because an engine failed without")?;
            for change in &self.changes {
                writeln!(text, "  {} ({})", change.describe(), change.failure)?;
            }
        }
        for (title, choices, separator) in
            [("Flags", &self.flags, " "), ("Environment", &self.environment, "="), ("Left out", &self.left_out, " ")]
        {
            if !choices.is_empty() {
                writeln!(text, "\n{title}")?;
            }
            for choice in choices {
                line(text, choice, separator)?;
            }
        }
        if !self.extra_arguments.is_empty() || !self.extra_environment.is_empty() {
            writeln!(text, "\nFrom the configuration, last and verbatim")?;
            for (name, value) in &self.extra_environment {
                writeln!(text, "  {name}={}", shell_words::quote(shown(name, value)))?;
            }
            if !self.extra_arguments.is_empty() {
                writeln!(text, "  {}", shell_words::join(&self.extra_arguments))?;
            }
        }
        writeln!(text, "\nCommand\n{}", self.command())
    }

    /// What one would type to start such an engine by hand.
    #[must_use]
    pub fn command(&self) -> String {
        let mut command = String::new();
        for choice in &self.environment {
            let value = choice.value.as_deref().unwrap_or_default();
            // Writing into a string does not fail.
            let _ = writeln!(command, "  {}={} \\", choice.name, shell_words::quote(value));
        }
        for (name, value) in &self.extra_environment {
            let _ = writeln!(command, "  {name}={} \\", shell_words::quote(shown(name, value)));
        }
        let directory = self.checkpoint.to_string_lossy();
        let _ = write!(command, "  vllm serve {}", shell_words::quote(&directory));
        let _ = write!(command, " \\\n    --served-model-name {}", shell_words::quote(&self.checkpoint_name));
        for choice in &self.flags {
            let _ = write!(command, " \\\n    {}", choice.name);
            for value in choice.value.iter().chain(&choice.more) {
                let _ = write!(command, " {}", shell_words::quote(value));
            }
        }
        if !self.extra_arguments.is_empty() {
            let _ = write!(command, " \\\n    {}", shell_words::join(&self.extra_arguments));
        }
        command
    }

    /// Bytes of one number in the cache.
    fn value_size(&self) -> u64 {
        let float32 = |choice: &Choice| choice.name == "--dtype" && choice.value.as_deref() == Some("float32");
        if self.flags.iter().any(float32) { 4 } else { 2 }
    }
}

/// A variable's value, or dots where its name says that it is a secret.
fn shown<'a>(name: &str, value: &'a str) -> &'a str {
    let name = name.to_ascii_uppercase();
    let secret = ["TOKEN", "KEY", "SECRET", "PASSWORD"].iter().any(|part| name.contains(part));
    if secret { "•••" } else { value }
}

/// Variables for programs, without secrets.
pub(super) fn told<S: serde::Serializer>(variables: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(variables.iter().map(|(name, value)| (name, shown(name, value))))
}

fn line(text: &mut String, choice: &Choice, separator: &str) -> fmt::Result {
    let value = choice.value.iter().chain(&choice.more).map(String::as_str).collect::<Vec<_>>().join(" ");
    let separator = if value.is_empty() { "" } else { separator };
    let left = format!("{}{separator}{value}", choice.name);
    if left.chars().count() > WIDEST {
        return writeln!(text, "  {left}\n  {:WIDEST$} {}", "", choice.reason);
    }
    writeln!(text, "  {left:WIDEST$} {}", choice.reason)
}

/// What the checkpoint is, line by line.
fn facts(card: &Card) -> Vec<(&'static str, String)> {
    let mut facts = vec![("architecture", format!("{} ({})", card.architecture, card.family))];
    let packed = card.quantization.as_ref().map(|quantization| quantization.describe());
    let numbers = packed.unwrap_or_else(|| {
        match (card.dtype.as_str(), card.weights.float_bytes.checked_div(card.weights.floats)) {
            ("", Some(bytes)) => format!("{} bits a number", bytes * 8),
            (dtype, _) => dtype.to_owned(),
        }
    });
    let size = if card.weights.bytes > 0 { gibibytes(card.weights.bytes) } else { "no safetensors".to_owned() };
    facts.push(("weights", format!("{size}, {numbers}")));
    if let Some(experts) = card.experts {
        facts.push(("experts", format!("{} in each layer", experts.count)));
    }
    facts.push(("context", format!("{} tokens", card.context_length)));
    let attention = &card.attention;
    let mut layers = Vec::new();
    let mut say = |count: u64, what: String| {
        if count > 0 {
            layers.push(format!("{count} {what}"));
        }
    };
    if attention.encoder {
        say(card.block_count, "that keep nothing (encoder)".into());
    }
    let latent = if attention.latent_length > 0 { " (latent attention)" } else { "" };
    say(attention.full_layers, format!("with the whole context{latent}"));
    say(attention.window.layers, format!("with a window of {}", attention.window.length));
    say(attention.state_layers, "with a fixed state".into());
    facts.push(("layers", layers.join(", ")));
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let kibibytes = cache_bytes_per_token(card, 1, 2) as f64 / 1024.0;
    if kibibytes > 0.0 {
        facts.push(("cache", format!("{kibibytes:.1} KiB a token in 16 bits, on one device")));
    }
    if let Some(pooling) = &card.pooling
        && !pooling.kind.is_empty()
    {
        facts.push(("pooling", pooling.kind.clone()));
    }
    let can: Vec<_> = card.capabilities.iter().map(|capability| capability.name()).collect();
    facts.push(("capabilities", can.join(", ")));
    let generation = &card.generation;
    let sampling: Vec<_> = [
        ("temperature", generation.temperature.map(|value| value.to_string())),
        ("top_k", generation.top_k.map(|value| value.to_string())),
        ("top_p", generation.top_p.map(|value| value.to_string())),
        ("min_p", generation.min_p.map(|value| value.to_string())),
        ("repetition_penalty", generation.repetition_penalty.map(|value| value.to_string())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some(format!("{name} {}", value?)))
    .collect();
    if !sampling.is_empty() {
        facts.push(("sampling", format!("{} (vLLM's own defaults for this checkpoint)", sampling.join(", "))));
    }
    facts
}
