//! Refusals of the core in words for users.

use super::LeaseError;
use super::core::Refusal;
use crate::model::plan::Device;

/// A refusal as the dialects get it.
pub(super) fn in_words(refusal: Refusal, device: Device) -> LeaseError {
    match refusal {
        Refusal::ShuttingDown => LeaseError::ShuttingDown,
        Refusal::Retiring => LeaseError::Retiring,
        Refusal::Broken(text) => LeaseError::Permanent(text),
        Refusal::QueueFull { retry_after } => LeaseError::QueueFull { retry_after },
        Refusal::TooSlow { retry_after } => LeaseError::TooSlow { retry_after },
        Refusal::TooLarge { needs, devices, budget } => {
            LeaseError::Permanent(too_large(needs, devices, budget, device))
        }
    }
}

/// Begins with Ollama's own sentence for this case; clients show it.
fn too_large(needs: u64, devices: usize, budget: u64, device: Device) -> String {
    let (kind, each) = match (device, devices) {
        (Device::Cpu, _) => ("system memory", String::new()),
        (Device::Cuda, 1) => ("GPU memory", String::new()),
        (Device::Cuda, many) => ("GPU memory", format!(" on each of {many} GPUs")),
    };
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let gibibytes = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    format!(
        "model requires more {kind} ({}{each}) than is available ({}); use a smaller model or one with smaller weights, \
         or give engines more with --memory-budget (VLLAMA_MEMORY_BUDGET)",
        gibibytes(needs),
        gibibytes(budget)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_told_with_its_figures_and_what_to_do() {
        let text = |devices, device| {
            in_words(Refusal::TooLarge { needs: 30 << 30, devices, budget: 24 << 30 }, device).to_string()
        };
        assert!(
            text(1, Device::Cpu).starts_with("model requires more system memory (30.0 GiB) than is available (24.0")
        );
        assert!(text(1, Device::Cuda).starts_with("model requires more GPU memory (30.0 GiB) than is"));
        assert!(text(4, Device::Cuda).contains("(30.0 GiB on each of 4 GPUs)"));
        assert!(text(1, Device::Cpu).contains("VLLAMA_MEMORY_BUDGET"));
    }
}
