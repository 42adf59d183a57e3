//! What to change in a plan that has failed, so that the next start does not fail the same way (decision 0041).
//! Pure: failure, plan with all changes so far, and what is free go in; the next change comes out, or none.

use super::failure::{Failure, Kind};
use crate::model::plan::{Change, Lever, Plan};

/// Most changes of one plan. Whatever they are, so many failures in a row have another cause.
const MOST: usize = 4;

/// A share of a GPU is lowered by so many percent at a time.
const STEP: u32 = 5;
/// No share is lowered below this, in percent.
const LEAST_SHARE: u32 = 30;
/// What is left free beside an engine that shares a GPU with somebody else, in percent.
const MARGIN: u32 = 2;

/// The next change for this plan, whose `changes` are those made so far. `free_percent` is what is free of the GPU that has
/// least, now that nothing of the engine is left; `None` where nobody knows.
pub(super) fn remedy(failure: &Failure, plan: &Plan, free_percent: Option<u32>) -> Option<Change> {
    if plan.changes.len() >= MOST {
        return None;
    }
    let remedies: &[Remedy] = match failure.kind {
        Kind::ContextTooLong | Kind::ContextBeyondModel => &[longest_that_fits],
        Kind::NoRoomForCache => &[small_steps],
        Kind::GpuOutOfMemory => &[smaller_share, small_steps],
        Kind::GpuMemoryBusy => &[what_is_free],
        Kind::CacheTooLarge | Kind::OutOfMemory => &[smaller_cache],
        Kind::ToolParser => &[no_tool_parser],
        Kind::ReasoningParser => &[no_reasoning_parser],
        Kind::GpuCommunication | Kind::StartHung => &[no_peers],
        _ => return None,
    };
    let case = Case { failure, plan, free_percent };
    remedies.iter().find_map(|remedy| remedy(&case))
}

/// What a remedy looks at.
struct Case<'a> {
    failure: &'a Failure,
    plan: &'a Plan,
    free_percent: Option<u32>,
}

type Remedy = fn(&Case<'_>) -> Option<Change>;

impl Case<'_> {
    /// A change from what is there, to what `to` makes of it.
    fn change(&self, lever: Lever, reason: &str, to: impl FnOnce(&str) -> Option<String>) -> Option<Change> {
        let from = self.plan.lever(lever)?;
        let to = to(&from).filter(|to| *to != from)?;
        let failure = self.failure.kind.name().to_owned();
        Some(Change { lever, from, to, failure, reason: reason.to_owned(), passing: false })
    }
}

fn longest_that_fits(case: &Case<'_>) -> Option<Change> {
    let reason = match case.failure.kind {
        Kind::ContextBeyondModel => "the model takes no context as long as that; vLLM finds the longest one",
        _ => "so long a context did not fit the memory; vLLM finds the longest one that does",
    };
    case.change(Lever::Length, reason, |_| Some("auto".to_owned()))
}

fn small_steps(case: &Case<'_>) -> Option<Change> {
    case.change(Lever::Steps, "smaller steps leave more memory for everything else", |from| {
        let is_larger = from.parse::<u32>().map_or(true, |tokens| tokens > Plan::small_step());
        is_larger.then(|| Plan::small_step().to_string())
    })
}

fn smaller_share(case: &Case<'_>) -> Option<Change> {
    case.change(Lever::Share, "the memory left beside the engine's share ran out", |from| {
        share(percent(from)?.checked_sub(STEP)?)
    })
}

fn what_is_free(case: &Case<'_>) -> Option<Change> {
    let free = case.free_percent?;
    let change = case.change(Lever::Share, "somebody else holds the rest of the GPU's memory", |from| {
        let to = free.checked_sub(MARGIN)?;
        // Weights and what vLLM works in do not become smaller with the share.
        let memory = &case.plan.memory;
        let needed = u128::from(memory.weights.saturating_add(memory.overhead)) * u128::from(percent(from)?);
        let fits = u128::from(to) * u128::from(memory.total()) > needed;
        (to < percent(from)? && fits).then(|| share(to))?
    })?;
    Some(Change { passing: true, ..change })
}

fn smaller_cache(case: &Case<'_>) -> Option<Change> {
    case.change(Lever::CpuCache, "main memory ran out with a larger one", |from| {
        let gib: u64 = from.parse().ok()?;
        (gib > 1).then(|| (gib / 2).to_string())
    })
}

fn no_tool_parser(case: &Case<'_>) -> Option<Change> {
    case.change(Lever::ToolParser, "vLLM cannot use it with this model", |_| Some("none".to_owned()))
}

fn no_reasoning_parser(case: &Case<'_>) -> Option<Change> {
    case.change(Lever::ReasoningParser, "vLLM cannot use it with this model", |_| Some("none".to_owned()))
}

fn no_peers(case: &Case<'_>) -> Option<Change> {
    case.change(
        Lever::PeerToPeer,
        "the GPUs could not talk to each other directly; they go through main memory",
        |_| Some("off".to_owned()),
    )
}

/// `0.85` in percent.
fn percent(share: &str) -> Option<u32> {
    let share: f64 = share.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 100")]
    (0.0..=1.0).contains(&share).then(|| (share * 100.0).round() as u32)
}

/// A share of so many percent; none where that is too little.
fn share(percent: u32) -> Option<String> {
    (LEAST_SHARE..100).contains(&percent).then(|| format!("0.{percent:02}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::plan::{Device, Memory, sample};

    fn plan(device: Device, gpus: usize, choices: &[(&'static str, &str)]) -> Plan {
        let memory = Memory { weights: 30 << 30, cache: 35 << 30, overhead: 3 << 30 };
        Plan { memory, ..sample::plan(device, gpus, choices) }
    }

    fn failed(kind: Kind) -> Failure {
        Failure::known(kind, "it failed".into())
    }

    /// All changes that the same failure, again and again, makes of a plan: `from→to`.
    fn course(kind: Kind, mut plan: Plan, free: Option<u32>) -> Vec<String> {
        let mut course = Vec::new();
        while let Some(change) = remedy(&failed(kind), &plan, free) {
            course.push(format!("{}→{}", change.from, change.to));
            let before = plan.clone();
            plan = plan.changed(&change);
            assert_ne!(plan, before, "a change changes something");
        }
        course
    }

    #[test]
    fn a_failure_that_comes_again_finds_fewer_and_fewer_changes_and_then_none() {
        let gpu = || plan(Device::Cuda, 1, &[("--gpu-memory-utilization", "0.85"), ("--max-model-len", "99")]);
        let cpu = || plan(Device::Cpu, 0, &[("VLLM_CPU_KVCACHE_SPACE", "4"), ("--max-model-len", "auto")]);
        for (kind, plan, expected) in [
            (Kind::ContextTooLong, gpu(), "99→auto"),
            (Kind::ContextTooLong, cpu(), ""),
            (Kind::NoRoomForCache, gpu(), "default→2048"),
            (Kind::NoRoomForCache, cpu(), ""),
            (Kind::GpuOutOfMemory, gpu(), "0.85→0.80 0.80→0.75 0.75→0.70 0.70→0.65"),
            (Kind::OutOfMemory, cpu(), "4→2 2→1"),
            (Kind::CacheTooLarge, cpu(), "4→2 2→1"),
            (Kind::OutOfMemory, gpu(), ""),
            (Kind::GpuCommunication, gpu(), ""),
            (Kind::ToolParser, gpu(), ""),
            (Kind::CoreDied, gpu(), ""),
            (Kind::Wedged, gpu(), ""),
        ] {
            assert_eq!(course(kind, plan, None).join(" "), expected, "{kind:?}");
        }
    }

    #[test]
    fn parsers_and_direct_ways_between_gpus_are_given_up() {
        let two = plan(Device::Cuda, 2, &[("--tool-call-parser", "hermes"), ("--reasoning-parser", "qwen3")]);
        assert_eq!(course(Kind::ToolParser, two.clone(), None), ["hermes→none"]);
        assert_eq!(course(Kind::ReasoningParser, two.clone(), None), ["qwen3→none"]);
        assert_eq!(course(Kind::GpuCommunication, two.clone(), None), ["on→off"]);
        assert_eq!(course(Kind::StartHung, two, None), ["on→off"]);
    }

    #[test]
    fn a_gpu_that_others_use_is_shared_with_them_for_the_moment() {
        let gpu = || plan(Device::Cuda, 1, &[("--gpu-memory-utilization", "0.85")]);
        let change = |free| remedy(&failed(Kind::GpuMemoryBusy), &gpu(), free);
        let shared = change(Some(70)).expect("a change");
        assert_eq!((shared.to.as_str(), shared.passing), ("0.68", true));
        assert_eq!(change(None), None, "nobody knows what is free");
        assert_eq!(change(Some(95)), None, "it would have fitted: the memory is back");
        // Weights and overhead are 33 of 68 GiB at 85 %.
        assert_eq!(change(Some(43)), None, "less than the weights need");
        assert_eq!(change(Some(44)).map(|change| change.to).as_deref(), Some("0.42"));
    }
}
