//! What was seen, as a table.

use std::collections::BTreeMap;
use std::time::Duration;

use super::faults::{Effect, Fault};
use super::load::Counts;

/// What was seen in a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// From the fault to the first answer after it, in seconds, one a round, by the kind of fault.
    kinds: BTreeMap<&'static str, Vec<f64>>,
    /// The same of the rounds in which a serving engine was dead at once, and how long the start of the next one took by
    /// itself.
    back: Vec<[f64; 2]>,
    /// What became of the requests.
    pub requests: Counts,
    /// How many engines were started.
    pub starts: usize,
    /// Dead children that were not collected in time.
    pub zombies: Vec<String>,
}

impl Report {
    /// Enters a round, and how long the last start took by itself, in seconds.
    pub fn round(&mut self, fault: Fault, back: Duration, start: f64) {
        let seconds = back.as_secs_f64();
        self.kinds.entry(fault.kind()).or_default().push(seconds);
        if fault.effect() == Effect::Dead {
            self.back.push([seconds, start]);
        }
    }

    /// Prints it.
    pub fn print(&self) {
        println!("| fault | rounds | next answer, median | slowest |\n|---|---|---|---|");
        for (kind, back) in &self.kinds {
            let rounds = back.len();
            println!("| {kind} | {rounds} | {:.2} s | {:.2} s |", quantile(back, 0.5), quantile(back, 1.0));
        }
        let rounds: usize = self.kinds.values().map(Vec::len).sum();
        println!("{rounds} rounds, {} starts of engines", self.starts);
        let Counts { sent, answered, replayed, failed, left, lost } = self.requests;
        println!(
            "requests: {sent} sent, {answered} answered, {replayed} replayed, {failed} refused or broken off with a reason, \
             {left} given up by clients, {lost} lost"
        );
        // A round that leaves a process, file, segment or descriptor behind ends the run.
        println!(
            "zombies older than 100 ms: {}; strays, leaked files, segments and descriptors: 0",
            self.zombies.len()
        );
        self.zombies.iter().for_each(|zombie| println!("  {zombie}"));
        let column = |value: fn(&[f64; 2]) -> f64| self.back.iter().map(value).collect::<Vec<_>>();
        let (back, start) = (column(|[back, _]| *back), column(|[_, start]| *start));
        println!("| {} deaths of serving engines | p50 | p99 |\n|---|---|---|", self.back.len());
        let row = |what: &str, values: &[f64], unit: &str| {
            println!("| {what} | {:.2}{unit} | {:.2}{unit} |", quantile(values, 0.5), quantile(values, 0.99));
        };
        row("back to service", &back, " s");
        row("the engine's own start", &start, " s");
        row("what vllama adds", &column(|[back, start]| back - start), " s");
        row("ratio", &self.ratios(), "");
    }

    /// The times back to service, each divided by what the start of the engine took by itself.
    pub fn ratios(&self) -> Vec<f64> {
        self.back.iter().map(|[back, start]| back / start).collect()
    }

    /// Checks what no single round can tell.
    pub fn check(&self) {
        let Counts { sent, answered, failed, left, lost, .. } = self.requests;
        assert_eq!(lost, 0, "lost requests; they are named above");
        assert_eq!(sent, answered + failed + left);
        // Who hangs up at once asks many times while an engine starts.
        assert!(answered > (sent - left) / 2, "most requests are answered whose clients stay");
        assert_eq!(self.zombies, [] as [String; 0], "zombies older than 100 ms");
    }
}

/// The value below which this part of them lies; 0 without any.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let index = (values.len().saturating_sub(1)) as f64 * part;
    values.get(index.round() as usize).copied().unwrap_or_default()
}
