//! What requests add up to: counted when each ends, with two look-ups and no allocation but for the first of its kind.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use crate::telemetry::Facts;

/// Most models, and most keys, that are counted by their names; what comes after them is counted as [`OTHER`]. Each costs
/// some hundred lines of the page.
const MOST: usize = 256;
/// Stands for all that has no name of its own.
pub(super) const OTHER: &str = "other";
/// Stands for the model of requests that are about none.
const NONE: &str = "none";

const DURATIONS: [f64; 15] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0];
const FIRST_TOKENS: [f64; 15] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0];
const TOKEN_GAPS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0];
const WAITS: [f64; 13] = [0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// A request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// The status of its answer, or 499.
    pub status: u16,
    /// From its head to the end of its answer.
    pub took: Duration,
    /// What it found out about itself.
    pub facts: &'a Facts,
}

/// All requests, by model and by key.
#[derive(Debug, Default)]
pub(super) struct Requests {
    models: Named<ModelFigures>,
    keys: Named<KeyFigures>,
}

/// The requests for one model.
#[derive(Debug)]
pub(super) struct ModelFigures {
    /// By the pattern of their route.
    pub routes: Mutex<BTreeMap<&'static str, RouteFigures>>,
    /// Seconds to the first token.
    pub first_token: Times,
    /// Seconds between tokens.
    pub gap: Times,
    /// Seconds until there was a place.
    pub wait: Times,
    /// Tokens of prompts.
    pub prompt: Counter,
    /// Tokens of answers.
    pub generated: Counter,
}

/// Times that not every model has: nothing before the first, and then no line of the page either.
#[derive(Debug)]
pub(super) struct Times {
    bounds: &'static [f64],
    seen: OnceLock<Histogram>,
}

impl Times {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, seen: OnceLock::new() }
    }

    fn observe(&self, time: Duration) {
        self.seen.get_or_init(|| Histogram::new(self.bounds.iter().copied())).observe(time.as_secs_f64());
    }

    /// How they are spread, once there are any.
    pub fn seen(&self) -> Option<&Histogram> {
        self.seen.get()
    }
}

/// The requests for one model by one route.
#[derive(Debug)]
pub(super) struct RouteFigures {
    /// Seconds they took.
    pub took: Histogram,
    /// Their number by status.
    pub statuses: BTreeMap<u16, u64>,
}

/// The requests with one key.
#[derive(Debug, Default)]
pub(super) struct KeyFigures {
    /// Their number by status.
    pub statuses: Mutex<BTreeMap<u16, u64>>,
    /// Those that were refused for the key's sake, by reason.
    pub refusals: Mutex<BTreeMap<&'static str, u64>>,
    /// Tokens of prompts.
    pub prompt: Counter,
    /// Tokens of answers.
    pub generated: Counter,
}

impl Default for ModelFigures {
    fn default() -> Self {
        Self {
            routes: Mutex::default(),
            first_token: Times::new(&FIRST_TOKENS),
            gap: Times::new(&TOKEN_GAPS),
            wait: Times::new(&WAITS),
            prompt: Counter::default(),
            generated: Counter::default(),
        }
    }
}

impl Default for RouteFigures {
    fn default() -> Self {
        Self { took: Histogram::new(DURATIONS), statuses: BTreeMap::new() }
    }
}

impl Requests {
    /// Counts one.
    pub fn count(&self, Ended { status, took, facts }: Ended<'_>) {
        let (prompt, generated) = facts.tokens();
        let name = if facts.is_installed() { facts.model() } else { facts.model().map(|_| OTHER) };
        let model = self.models.get(name.unwrap_or(NONE));
        {
            let mut routes = lock(&model.routes);
            let route = routes.entry(facts.route().unwrap_or(OTHER)).or_default();
            route.took.observe(took.as_secs_f64());
            *route.statuses.entry(status).or_default() += 1;
        }
        if let Some(waited) = facts.waited() {
            model.wait.observe(waited);
        }
        if let Some((first, gap)) = facts.pace() {
            model.first_token.observe(first);
            gap.into_iter().for_each(|gap| model.gap.observe(gap));
        }
        model.prompt.inc_by(prompt);
        model.generated.inc_by(generated);
        let (key, refusal) = (facts.key(), facts.refusal());
        if key.is_none() && refusal.is_none() {
            return;
        }
        let key = self.keys.get(key.unwrap_or(NONE));
        *lock(&key.statuses).entry(status).or_default() += 1;
        key.prompt.inc_by(prompt);
        key.generated.inc_by(generated);
        if let Some(reason) = refusal {
            *lock(&key.refusals).entry(reason).or_default() += 1;
        }
    }

    /// The figures of all models, by name.
    pub fn models(&self) -> BTreeMap<Box<str>, Arc<ModelFigures>> {
        self.models.all()
    }

    /// The figures of all keys, by name.
    pub fn keys(&self) -> BTreeMap<Box<str>, Arc<KeyFigures>> {
        self.keys.all()
    }
}

/// Locks what is only ever added to: what a panic left behind is as good as before.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Figures by name; a bounded number of names.
#[derive(Debug)]
struct Named<T>(RwLock<HashMap<Box<str>, Arc<T>>>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<T: Default> Named<T> {
    fn get(&self, name: &str) -> Arc<T> {
        if let Some(known) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return known.clone();
        }
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let name = if all.len() < MOST || all.contains_key(name) { name } else { OTHER };
        all.entry(name.into()).or_default().clone()
    }

    fn all(&self) -> BTreeMap<Box<str>, Arc<T>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(name, figures)| (name.clone(), figures.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(facts: &Facts) -> Ended<'_> {
        Ended { status: 200, took: Duration::from_millis(20), facts }
    }

    #[test]
    fn the_number_of_names_is_bounded_whatever_is_installed() {
        let requests = Requests::default();
        for number in 0..MOST + 100 {
            let facts = Facts::default();
            facts.set_model(format!("m{number}"));
            facts.set_tokens(1, 2);
            requests.count(ended(&facts));
        }
        let models = requests.models();
        assert_eq!(models.len(), MOST + 1);
        assert_eq!((models[OTHER].prompt.get(), models["m0"].generated.get()), (100, 2));
    }

    #[test]
    fn names_that_are_not_installed_and_requests_about_no_model_are_told_apart() {
        let requests = Requests::default();
        let facts = Facts::default();
        facts.set_wanted("nobody-has-this".to_owned());
        requests.count(ended(&facts));
        requests.count(ended(&Facts::default()));
        assert_eq!(requests.models().keys().map(|name| &**name).collect::<Vec<_>>(), [NONE, OTHER]);
    }

    #[test]
    fn a_key_is_counted_with_its_tokens_and_its_refusals() {
        let requests = Requests::default();
        let facts = Facts::default();
        facts.set_key("alice".into());
        facts.set_tokens(3, 4);
        requests.count(ended(&facts));
        facts.set_refusal("rate");
        requests.count(Ended { status: 429, ..ended(&facts) });
        let keys = requests.keys();
        let alice = &keys["alice"];
        assert_eq!(*lock(&alice.statuses), BTreeMap::from([(200, 1), (429, 1)]));
        assert_eq!(*lock(&alice.refusals), BTreeMap::from([("rate", 1)]));
        assert_eq!((alice.prompt.get(), alice.generated.get()), (6, 8));
    }
}
