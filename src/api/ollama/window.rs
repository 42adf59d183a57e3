//! How long a prompt may be and what goes when it is longer: `num_ctx`, `truncate` and `shift` (ollama-api §6.9). Pure:
//! the tokens are counted by the engine, who is asked in [`fit`](super::fit).

use super::messages::Turn;

/// Tokens an image is taken to have before the engine counts (§6.9).
const IMAGE: u64 = 768;

/// Tokens a template may write around a turn: its marks, its role, its line breaks.
const AROUND_A_TURN: u64 = 16;

/// Of the shortest context Ollama takes (§5).
const SHORTEST: u64 = 4;

/// An answer without `num_predict` is at most this many contexts long (§5).
const CONTEXTS_PER_ANSWER: u64 = 10;

/// The room of one request, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// `num_ctx`, or what the engine takes where that is less.
    context: u64,
    /// Longest sequence the engine takes: prompt and answer.
    engine: u64,
    /// Whether the oldest messages may go.
    truncate: bool,
    /// Whether old tokens may go.
    shift: bool,
    /// Tokens of answer that were asked for.
    num_predict: Option<u64>,
}

impl Window {
    /// The room there is with this `num_ctx` (`None` = as much as there is) in an engine of `engine` tokens.
    #[must_use]
    pub fn new(
        num_ctx: Option<u64>,
        engine: u64,
        (truncate, shift): (Option<bool>, Option<bool>),
        num_predict: Option<u64>,
    ) -> Self {
        let context = num_ctx.map_or(engine, |length| length.max(SHORTEST)).min(engine);
        Self { context, engine, truncate: truncate.unwrap_or(true), shift: shift.unwrap_or(true), num_predict }
    }

    /// Whether a prompt of at most `bound` tokens fits for certain, so that nobody need count.
    #[must_use]
    pub fn surely_holds(&self, bound: u64) -> bool {
        bound <= self.longest()
    }

    /// Whether only the engine's own limit counts: it refuses what is too long by itself, so the prompt is counted after
    /// that and not before.
    #[must_use]
    pub fn is_the_engines(&self) -> bool {
        self.context == self.engine
    }

    /// The longest prompt that is taken as it is. The engine needs room for one token of answer.
    #[must_use]
    pub fn longest(&self) -> u64 {
        self.context.min(self.engine.saturating_sub(1))
    }

    /// Length a prompt is shortened to where it must be. An engine that is full cannot answer, and where Ollama would
    /// shift old tokens out then, vLLM cannot: room is left for the answer that was asked for, or for a quarter.
    #[must_use]
    pub fn goal(&self) -> u64 {
        let answer = self.num_predict.unwrap_or(self.engine / 4).clamp(1, (self.engine / 2).max(1));
        self.context.min(if self.shift { self.engine - answer } else { self.engine.saturating_sub(1) })
    }

    /// Whether the oldest messages may go.
    #[must_use]
    pub fn drops_messages(&self) -> bool {
        self.truncate
    }

    /// Whether the beginning of what cannot be made shorter by messages may go.
    #[must_use]
    pub fn cuts(&self) -> bool {
        self.truncate && self.shift
    }

    /// Whether the answer's limit depends on the number of the prompt's tokens, which are at most `bound`.
    #[must_use]
    pub fn limits_the_sum(&self, bound: u64) -> bool {
        let ends = |answer: u64| bound.saturating_add(answer) <= self.context;
        !self.shift && !self.is_the_engines() && !self.num_predict.is_some_and(ends)
    }

    /// Most tokens of an answer to a prompt of `prompt` tokens (`None` = not counted), where it is not the engine that
    /// limits it. With `shift` an answer may outgrow the context: Ollama goes on without the oldest tokens, the engine
    /// with them.
    #[must_use]
    pub fn answer(&self, prompt: Option<u64>) -> Option<u64> {
        match prompt {
            _ if self.is_the_engines() => None,
            Some(prompt) if !self.shift => Some(self.context.saturating_sub(prompt).max(1)),
            _ if self.num_predict.is_some() => None,
            _ => Some(self.context.saturating_mul(CONTEXTS_PER_ANSWER)).filter(|tokens| *tokens < self.engine),
        }
    }
}

/// More tokens than these turns can be, but for unusually large images: a token is at least a byte. `beside` are bytes of
/// what the template writes beside them: its own words and the tools.
#[must_use]
pub fn bound(turns: &[Turn<'_>], beside: usize) -> u64 {
    let of = |turn: &Turn<'_>| turn.bytes() as u64 + AROUND_A_TURN + turn.images() as u64 * IMAGE;
    turns.iter().map(of).sum::<u64>() + beside as u64
}

/// Places at which a conversation may begin anew when its oldest messages are left out: numbers of turns that go. The
/// system's turns and the last one always stay. A conversation begins with a user where it can: many templates take
/// nothing else, and a result without its call means nothing.
#[must_use]
pub fn beginnings(turns: &[Turn<'_>]) -> Vec<usize> {
    let rest = || turns.iter().enumerate().filter(|(_, turn)| turn.role() != "system").skip(1);
    let last_user = rest().filter(|(_, turn)| turn.role() == "user").map(|(index, _)| index).last().unwrap_or(0);
    let begins = |(index, turn): &(usize, &Turn<'_>)| {
        turn.role() == "user" || (*index > last_user && turn.role() != "tool") || index + 1 == turns.len()
    };
    rest().filter(begins).map(|(index, _)| index).collect()
}

/// The turns that stay when the conversation begins with turn `beginning`.
pub fn from<'t, 'a>(turns: &'t [Turn<'a>], beginning: usize) -> impl Iterator<Item = &'t Turn<'a>> {
    let stays = move |(index, turn): &(usize, &Turn<'_>)| *index >= beginning || turn.role() == "system";
    turns.iter().enumerate().filter(stays).map(|(_, turn)| turn)
}

/// Looks for the first of some candidates, each smaller than the one before, that is small enough, with few questions:
/// it guesses by the size of what was measured last, and halves what is left when its guesses are bad.
#[derive(Debug)]
pub struct Search<'s> {
    /// Bytes of each candidate; the first one is known to be too long.
    sizes: &'s [usize],
    /// Most tokens.
    goal: u64,
    /// The last candidate known to be too long, and the first known to fit.
    between: (usize, usize),
    /// Bytes for a token, as measured last.
    bytes_per_token: f64,
    asked: u32,
}

impl<'s> Search<'s> {
    /// A search after the first candidate was found to be of `tokens` tokens, which is too many.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn new(sizes: &'s [usize], tokens: u64, goal: u64) -> Self {
        let bytes_per_token = sizes.first().map_or(1.0, |size| *size as f64 / tokens.max(1) as f64);
        Self { sizes, goal, between: (0, sizes.len()), bytes_per_token, asked: 0 }
    }

    /// The candidate to measure next; `None` when the search is over.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn next(&self) -> Option<usize> {
        let (long, fits) = self.between;
        if long + 1 >= fits {
            return None;
        }
        if self.asked >= 3 {
            return Some(long.midpoint(fits));
        }
        let goal = self.goal as f64 * self.bytes_per_token;
        let guess = self.sizes.partition_point(|size| *size as f64 > goal);
        Some(guess.clamp(long + 1, fits - 1))
    }

    /// Notes how many tokens a candidate has.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn measured(&mut self, candidate: usize, tokens: u64) {
        self.asked += 1;
        self.bytes_per_token = self.sizes[candidate] as f64 / tokens.max(1) as f64;
        if tokens <= self.goal { self.between.1 = candidate } else { self.between.0 = candidate }
    }

    /// The first candidate that fits, if one does.
    #[must_use]
    pub fn found(&self) -> Option<usize> {
        Some(self.between.1).filter(|candidate| *candidate < self.sizes.len())
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
