//! The load that runs while things go wrong: clients that read, clients that leave, clients that stall. Each request is
//! followed to its end and counted once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::harness::{Client, Request, vllama};

/// What became of requests.
#[derive(Debug, Default)]
pub struct Counts {
    /// Sent.
    pub sent: AtomicUsize,
    /// Answered to the end.
    pub answered: AtomicUsize,
    /// Refused, or broken off by an error line, with a reason.
    pub failed: AtomicUsize,
    /// Given up by the client.
    pub left: AtomicUsize,
    /// Neither: no end, no reason, or an answer that is not the one to the question.
    pub lost: AtomicUsize,
}

impl Counts {
    fn count(&self, fate: Fate) {
        let counter = match fate {
            Fate::Answered => &self.answered,
            Fate::Failed => &self.failed,
            Fate::Left => &self.left,
            Fate::Lost(why) => {
                println!("lost: {why}");
                &self.lost
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// All figures at one moment: sent, answered, failed, left, lost.
    pub fn read(&self) -> [usize; 5] {
        [&self.sent, &self.answered, &self.failed, &self.left, &self.lost].map(|count| count.load(Ordering::Relaxed))
    }
}

/// What became of one request.
enum Fate {
    Answered,
    Failed,
    Left,
    Lost(String),
}

/// Clients at work until they are told to stop.
pub struct Load {
    clients: JoinSet<()>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Starts this many clients.
    pub fn start(client: &Client, number: u64, seed: u64, counts: &Arc<Counts>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for which in 0..number {
            let (client, stop, counts) = (client.clone(), stop.clone(), counts.clone());
            clients.spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed ^ (which << 32));
                while !stop.load(Ordering::Relaxed) {
                    counts.sent.fetch_add(1, Ordering::Relaxed);
                    counts.count(ask(&client, &mut random).await);
                }
            });
        }
        Self { clients, stop }
    }

    /// Lets every client finish what it has asked.
    pub async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.expect("a client does not panic");
        }
    }
}

/// One request of any kind, to its end.
async fn ask(client: &Client, random: &mut fastrand::Rng) -> Fate {
    let words = random.usize(1..12);
    let stream = random.bool();
    let leaves = random.u8(..) < 40;
    let question = format!("FAKE:count {words}");
    let body = if random.bool() { vllama::chat(&question, stream) } else { vllama::generate(&question, stream) };
    let path = if body["messages"].is_array() { "/api/chat" } else { "/api/generate" };
    let mut exchange = match client.send(&Request::post(path, &body)).await {
        Ok(exchange) => exchange,
        Err(error) => return Fate::Lost(format!("{path} was not taken: {error}")),
    };
    if leaves {
        // Before the head, or in the middle of the answer.
        tokio::time::sleep(Duration::from_millis(random.u64(0..80))).await;
        return Fate::Left;
    }
    match exchange.answer().await {
        Ok(answer) => judge(answer.status(), &answer.text(), words),
        Err(error) => Fate::Lost(format!("{path} broke off: {error}")),
    }
}

/// Whether these are the words that were asked for, once and to the end, or an error in their stead.
fn judge(status: u16, text: &str, words: usize) -> Fate {
    let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    let Ok(lines) = lines else { return Fate::Lost(format!("no JSON: {text:?}")) };
    let Some(last) = lines.last() else { return Fate::Lost(format!("nothing, with status {status}")) };
    if last["error"].as_str().is_some_and(|reason| !reason.is_empty()) {
        return Fate::Failed;
    }
    let said = |line: &Value| line["message"]["content"].as_str().or(line["response"].as_str()).map(str::to_owned);
    let said: String = lines.iter().filter_map(said).collect();
    let expected = (1..=words).map(|word| word.to_string()).collect::<Vec<_>>().join(" ");
    if status == 200 && last["done"] == true && said == expected {
        return Fate::Answered;
    }
    Fate::Lost(format!("{status} {said:?} where {expected:?} was asked for, and last {last}"))
}
