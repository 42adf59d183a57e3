//! What goes wrong, in which process and in which phase of its life; and in which order. How it is made to happen is in
//! [`super::strike`].

use std::collections::BTreeMap;

/// What happens to one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and nobody lets it go on.
    Stop,
    /// SIGTERM.
    Term,
    /// It leaves with this status.
    Exit(i32),
    /// It does nothing any more.
    Hang,
    /// It says what is no text, and what it answers just now is none either.
    Garbage,
    /// It does nothing any more, complains, and leaves half a second later.
    SlowDeath,
    /// A descendant leaves its session by a double fork, and then the leader is killed.
    ForkAway,
}

/// A process of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What vllama has started: vLLM's front.
    Leader,
    /// `VLLM::EngineCore`.
    Core,
    /// `VLLM::Worker`.
    Worker,
}

/// A phase of an engine's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Python imports; there is only the leader.
    Import,
    /// The weights load.
    Load,
    /// It is ready and has nothing to do.
    Ready,
    /// It answers.
    Streaming,
    /// It has been told to stop.
    Stopping,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process is struck in a phase.
    Blow(Blow, Part, Phase),
    /// Python's resource tracker is killed.
    Tracker,
    /// All processes of the engine are killed at once, as the kernel does when a container's memory runs out.
    All(Phase),
    /// The leader is killed, and the next one while it starts.
    Twice,
    /// A request kills the engine, and its successor when it is asked again.
    Deadly(&'static str),
    /// A request gets an answer that is none.
    Broken(&'static str),
    /// The engine never answers one request, whose client gives up at last.
    Unanswered,
    /// The model is unloaded while requests run.
    Unload,
    /// The engine is told to stop and does not care.
    TermIgnored,
    /// Many clients hang up at once.
    Vanish,
    /// Many clients read nothing of long answers.
    Stall,
    /// Many clients come at once; some say what is no HTTP, some not even a whole head.
    Flood,
    /// The file system of the state directory is full while the engine is killed.
    FullDisk,
    /// /dev/shm is full while the engine is killed, until its successor has failed of it.
    FullSharedMemory,
    /// vllama itself is told to be quiet and loud, and for its state.
    Noise,
}

/// What a fault does to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It may live on.
    Bearable,
    /// It is replaced at some time.
    Replaced,
    /// It is dead at once, so that the time to the next answer is a start and what vllama adds to it.
    Dead,
}

const BLOWS: [Blow; 9] = [
    Blow::Kill,
    Blow::Stop,
    Blow::Term,
    Blow::Exit(0),
    Blow::Exit(1),
    Blow::Hang,
    Blow::Garbage,
    Blow::SlowDeath,
    Blow::ForkAway,
];
const PARTS: [Part; 3] = [Part::Leader, Part::Core, Part::Worker];
const PHASES: [Phase; 4] = [Phase::Load, Phase::Ready, Phase::Streaming, Phase::Stopping];
const OTHERS: [Fault; 23] = [
    Fault::Tracker,
    Fault::All(Phase::Load),
    Fault::All(Phase::Ready),
    Fault::All(Phase::Streaming),
    Fault::Twice,
    Fault::Deadly("exit0 0"),
    Fault::Deadly("exit1 2"),
    Fault::Deadly("kill9 1"),
    Fault::Deadly("kill-core 0"),
    Fault::Broken("cut 2"),
    Fault::Broken("cut-head"),
    Fault::Broken("not-json"),
    Fault::Broken("error-midstream 2"),
    Fault::Broken("no-done 2"),
    Fault::Unanswered,
    Fault::Unload,
    Fault::TermIgnored,
    Fault::Vanish,
    Fault::Stall,
    Fault::Flood,
    Fault::FullDisk,
    Fault::FullSharedMemory,
    Fault::Noise,
];

/// Every fault. Without `narrow` nothing can be filled, so what needs that is left out.
pub fn all(narrow: bool) -> Vec<Fault> {
    let import = BLOWS.map(|blow| Fault::Blow(blow, Part::Leader, Phase::Import));
    let later = BLOWS
        .into_iter()
        .flat_map(|blow| PARTS.into_iter().flat_map(move |part| PHASES.map(|phase| Fault::Blow(blow, part, phase))));
    let others = OTHERS.into_iter().filter(|fault| narrow || !fault.needs_narrow_file_systems());
    import.into_iter().chain(later).chain(others).collect()
}

impl Fault {
    /// What it is called in the table.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Blow(Blow::Kill, ..) => "kill -9 of a process",
            Self::Blow(Blow::Stop, ..) => "STOP of a process",
            Self::Blow(Blow::Term, ..) => "TERM of a process",
            Self::Blow(Blow::Exit(0), ..) => "exit 0 of a process",
            Self::Blow(Blow::Exit(_), ..) => "exit 1 of a process",
            Self::Blow(Blow::Hang, ..) => "a process hangs",
            Self::Blow(Blow::Garbage, ..) => "a process says garbage",
            Self::Blow(Blow::SlowDeath, ..) => "slow death of a process",
            Self::Blow(Blow::ForkAway, ..) => "double fork and setsid, then kill -9",
            Self::Tracker => "kill -9 of the resource tracker",
            Self::All(_) => "kill -9 of all at once",
            Self::Twice => "kill -9, and again while it starts",
            Self::Deadly(_) => "a request that kills engines",
            Self::Broken(_) => "an answer that is none",
            Self::Unanswered => "a request that is never answered",
            Self::Unload => "unloaded while requests run",
            Self::TermIgnored => "TERM ignored",
            Self::Vanish => "clients vanish",
            Self::Stall => "clients stall",
            Self::Flood => "clients flood",
            Self::FullDisk => "full disk, kill -9",
            Self::FullSharedMemory => "full /dev/shm, kill -9",
            Self::Noise => "USR1, USR2 to vllama",
        }
    }

    /// What happens exactly.
    pub fn name(self) -> String {
        match self {
            Self::Blow(_, part, phase) => format!("{}: {part:?} while {phase:?}", self.kind()),
            Self::All(phase) => format!("{} while {phase:?}", self.kind()),
            Self::Deadly(order) | Self::Broken(order) => format!("{}: {order}", self.kind()),
            _ => self.kind().to_owned(),
        }
    }

    /// The phase that it waits for.
    pub fn phase(self) -> Option<Phase> {
        match self {
            Self::Blow(_, _, phase) | Self::All(phase) => Some(phase),
            _ => None,
        }
    }

    /// What it does to the engine.
    pub fn effect(self) -> Effect {
        match self {
            Self::Blow(_, _, Phase::Stopping) => Effect::Replaced,
            Self::Blow(Blow::Garbage, ..) => Effect::Bearable,
            // Nobody has been served by it yet.
            Self::Blow(_, _, Phase::Import | Phase::Load) | Self::All(Phase::Load) => Effect::Replaced,
            Self::Blow(Blow::Kill | Blow::Exit(_), ..) | Self::All(_) => Effect::Dead,
            Self::Blow(Blow::Term, Part::Core | Part::Worker, _) => Effect::Dead,
            Self::Blow(..) | Self::Twice | Self::Deadly(_) | Self::TermIgnored => Effect::Replaced,
            Self::FullDisk | Self::FullSharedMemory => Effect::Replaced,
            _ => Effect::Bearable,
        }
    }

    /// Whether it fills a file system.
    pub fn needs_narrow_file_systems(self) -> bool {
        matches!(self, Self::FullDisk | Self::FullSharedMemory)
    }
}

/// Deals faults: every kind once before any kind twice, and of a kind every fault once before any twice.
pub struct Deck {
    /// What is still to come of each kind.
    kinds: BTreeMap<&'static str, Vec<Fault>>,
    /// The kinds that are still to come in this turn.
    turn: Vec<&'static str>,
    faults: Vec<Fault>,
}

impl Deck {
    /// A deck of these faults.
    pub fn new(faults: Vec<Fault>) -> Self {
        Self { kinds: BTreeMap::new(), turn: Vec::new(), faults }
    }

    /// The next fault.
    pub fn deal(&mut self, random: &mut fastrand::Rng) -> Fault {
        if self.turn.is_empty() {
            self.turn = self.faults.iter().map(|fault| fault.kind()).collect();
            self.turn.sort_unstable();
            self.turn.dedup();
            random.shuffle(&mut self.turn);
        }
        let kind = self.turn.pop().unwrap();
        let left = self.kinds.entry(kind).or_default();
        if left.is_empty() {
            left.extend(self.faults.iter().filter(|fault| fault.kind() == kind));
            random.shuffle(left);
        }
        left.pop().unwrap()
    }
}
