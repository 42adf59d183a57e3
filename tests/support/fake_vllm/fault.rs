//! What can go wrong with an answer, and when.

/// One way to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `exit0`: the engine's core dies and the program leaves with status 0, as vLLM's Python server does.
    Exit0,
    /// `exit1`: the program leaves with status 1.
    Exit1,
    /// `kill9`: the leader is killed; its children stay.
    Kill9,
    /// `kill-core`: the core is killed; the leader notices, fails its requests and leaves with status 0.
    KillCore,
    /// `out-of-memory`: the core runs out of GPU memory; otherwise as `kill-core`.
    OutOfMemory,
    /// `hang`: nothing more, for ever.
    Hang,
    /// `abort-stream`: the answer ends with `finish_reason` `abort`.
    Abort,
    /// `error-midstream`: an error object in the stream, then `[DONE]`; status 500 for an answer in one piece.
    Error,
    /// `cut`: the connection ends in the middle of the body.
    Cut,
    /// `cut-head`: the connection ends in the middle of the head.
    CutHead,
    /// `no-done`: the stream ends properly, but without finish reason and `[DONE]`.
    NoDone,
    /// `http400`: status 400 instead of an answer.
    Http400,
    /// `http500`: status 500 instead of an answer.
    Http500,
    /// `http503`: status 503 instead of an answer, as with a full queue.
    Http503,
    /// `not-json`: a body that is no JSON.
    NotJson,
}

/// All faults by the names that prompts and `FAKE_VLLM_FAULT` use.
const NAMES: &[(&str, Fault)] = &[
    ("exit0", Fault::Exit0),
    ("exit1", Fault::Exit1),
    ("kill9", Fault::Kill9),
    ("kill-core", Fault::KillCore),
    ("out-of-memory", Fault::OutOfMemory),
    ("hang", Fault::Hang),
    ("abort-stream", Fault::Abort),
    ("error-midstream", Fault::Error),
    ("cut", Fault::Cut),
    ("cut-head", Fault::CutHead),
    ("no-done", Fault::NoDone),
    ("http400", Fault::Http400),
    ("http500", Fault::Http500),
    ("http503", Fault::Http503),
    ("not-json", Fault::NotJson),
];

impl Fault {
    /// The fault of that name.
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, fault)| *fault)
    }

    /// Whether it happens instead of an answer, before any token.
    pub fn comes_first(self) -> bool {
        matches!(self, Self::CutHead | Self::Http400 | Self::Http500 | Self::Http503 | Self::NotJson)
    }
}

/// A fault and the number of tokens before it.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    /// Tokens that still arrive.
    pub after: usize,
    /// What happens then.
    pub fault: Fault,
}

impl Planned {
    /// The fault a prompt asks for by `FAKE:<fault> [N]`.
    pub fn in_prompt(prompt: &str) -> Option<Self> {
        let (_, order) = prompt.rsplit_once("FAKE:")?;
        let mut words = order.split_whitespace();
        let fault = Fault::named(words.next()?)?;
        Some(Self { after: words.next().and_then(|word| word.parse().ok()).unwrap_or(3), fault })
    }
}
