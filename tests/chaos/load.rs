//! The load that runs while things go wrong: clients that read, clients that leave, clients that stall. Each request has a
//! number that its answer repeats, is followed to its end, and is entered in a ledger once.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::harness::{Client, Exchange, Request, vllama};

/// Words of an answer that fills every buffer on its way.
const LONG: usize = 2000;
/// What the kernel of a client that stalls takes in.
const WINDOW: u32 = 32 << 10;

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Answered to the end.
    Answered,
    /// Refused, or broken off by an error line, with a reason.
    Failed,
    /// Given up by the client, or by vllama since the client did not read.
    Left,
    /// None of these: no end, no reason, or an answer that is not the one to the question.
    Lost(String),
}

/// All requests by their numbers.
#[derive(Clone, Default)]
pub struct Ledger {
    next: Arc<AtomicU64>,
    /// `None` as long as it is on its way.
    fates: Arc<Mutex<BTreeMap<u64, Option<Fate>>>>,
}

/// How many requests had which fate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sent.
    pub sent: usize,
    /// Answered to the end.
    pub answered: usize,
    /// Asked again of another engine.
    pub replayed: usize,
    /// Refused or broken off with a reason.
    pub failed: usize,
    /// Given up.
    pub left: usize,
    /// Lost.
    pub lost: usize,
}

impl Ledger {
    /// Enters a request that is about to be sent, and gives its number.
    pub fn open(&self) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, None);
        number
    }

    /// Enters what became of a request.
    pub fn close(&self, number: u64, fate: Fate) {
        if let Fate::Lost(why) = &fate {
            println!("lost: request {number}: {why}");
        }
        let before = self.lock().insert(number, Some(fate));
        assert_eq!(before, Some(None), "request {number} has two fates");
    }

    /// Counts what became of all of them, and checks how often each has reached an engine, of which `requests` tells:
    /// nobody may be answered unasked, and nobody asked more often than `most` times.
    pub fn count_with(&self, requests: &Path, most: usize) -> Counts {
        let mut reached: HashMap<u64, usize> = HashMap::new();
        let text = std::fs::read_to_string(requests).unwrap_or_default();
        for number in text.lines().filter_map(number_of) {
            *reached.entry(number).or_default() += 1;
        }
        for (number, fate) in self.lock().iter() {
            let times = reached.get(number).copied().unwrap_or_default();
            assert!(times <= most, "request {number} has reached engines {times} times");
            let is_answered = *fate == Some(Fate::Answered);
            assert!(times > 0 || !is_answered, "request {number} is answered, but no engine knows it");
        }
        let replayed = reached.values().filter(|times| **times > 1).count();
        Counts { replayed, ..self.count() }
    }

    /// Counts what became of all of them.
    pub fn count(&self) -> Counts {
        let mut counts = Counts::default();
        for fate in self.lock().values() {
            counts.sent += 1;
            match fate {
                Some(Fate::Answered) => counts.answered += 1,
                Some(Fate::Failed) => counts.failed += 1,
                Some(Fate::Left) => counts.left += 1,
                Some(Fate::Lost(_)) | None => counts.lost += 1,
            }
        }
        counts
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Option<Fate>>> {
        self.fates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// Adds others to these.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.answered += other.answered;
        self.replayed += other.replayed;
        self.failed += other.failed;
        self.left += other.left;
        self.lost += other.lost;
    }
}

/// The number in a line that an engine has written about a request; a question about its tokens is none.
fn number_of(line: &str) -> Option<u64> {
    if line.contains("\"path\":\"/tokenize\"") {
        return None;
    }
    let (_, after) = line.split_once("request no ")?;
    after.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

/// Clients at work until they are told to stop.
pub struct Load {
    clients: JoinSet<()>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Starts this many clients.
    pub fn start(client: &Client, number: u64, seed: u64, ledger: &Ledger) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for which in 0..number {
            let (client, stop, ledger) = (client.clone(), stop.clone(), ledger.clone());
            clients.spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed ^ (which << 32));
                let mut connection = None;
                while !stop.load(Ordering::Relaxed) {
                    match random.u8(..) {
                        0..36 => leave(&client, &mut random, &ledger).await,
                        36..44 => stall(&client, &mut random, &ledger).await,
                        _ => connection = ask(&client, connection, &mut random, &ledger).await,
                    }
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

/// A question, the path it goes to and the words of its answer.
fn question(number: u64, random: &mut fastrand::Rng) -> (Request, String) {
    let words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"];
    let said = format!("{number} {}", words[..random.usize(..words.len())].join(" "));
    let prompt = format!("request no {number}: FAKE:text {}", said.trim_end());
    (request(&prompt, random), said.trim_end().to_owned())
}

fn request(prompt: &str, random: &mut fastrand::Rng) -> Request {
    let stream = random.bool();
    if random.bool() {
        Request::post("/api/chat", &vllama::chat(prompt, stream))
    } else {
        Request::post("/api/generate", &vllama::generate(prompt, stream))
    }
}

/// One question of any kind, to the end of its answer; over a connection that has carried others, if there is one. An
/// answer too many would be taken for that of the next question.
pub async fn ask(
    client: &Client,
    connection: Option<Exchange>,
    random: &mut fastrand::Rng,
    ledger: &Ledger,
) -> Option<Exchange> {
    let number = ledger.open();
    let (request, words) = question(number, random);
    let answer = async {
        let mut exchange = match connection {
            Some(exchange) => exchange,
            None => client.connect().await?,
        };
        let answer = exchange.ask(&request).await?;
        Ok::<_, std::io::Error>((exchange, answer))
    };
    match answer.await {
        Ok((exchange, answer)) => {
            let closes = answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            ledger.close(number, judge(answer.status(), &answer.text(), &words));
            (!closes && random.bool()).then_some(exchange)
        }
        Err(error) => {
            ledger.close(number, Fate::Lost(format!("it broke off: {error}")));
            None
        }
    }
}

/// One that hangs up before the head, or in the middle of the answer.
pub async fn leave(client: &Client, random: &mut fastrand::Rng, ledger: &Ledger) {
    let number = ledger.open();
    let sent = client.send(&question(number, random).0).await;
    tokio::time::sleep(Duration::from_millis(random.u64(0..80))).await;
    ledger.close(number, sent.map_or_else(|error| Fate::Lost(error.to_string()), |_| Fate::Left));
}

/// One that asks for much and reads nothing of it for up to a second. It may have been cut off then.
pub async fn stall(client: &Client, random: &mut fastrand::Rng, ledger: &Ledger) {
    let number = ledger.open();
    let prompt = format!("request no {number}: FAKE:rush {LONG}");
    let sent = client.send_with_window(&request(&prompt, random), WINDOW).await;
    let fate = match sent {
        Err(error) => Fate::Lost(error.to_string()),
        Ok(mut exchange) => {
            tokio::time::sleep(Duration::from_millis(random.u64(0..1000))).await;
            match exchange.answer().await {
                Ok(answer) => judge(answer.status(), &answer.text(), &vec!["rush"; LONG].join(" ")),
                Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Fate::Lost("it never ended".into()),
                Err(_) => Fate::Left,
            }
        }
    };
    ledger.close(number, fate);
}

/// Whether these are the words that were asked for, once and to the end, or an error in their stead.
fn judge(status: u16, text: &str, words: &str) -> Fate {
    let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    let Ok(lines) = lines else { return Fate::Lost(format!("no JSON: {text:?}")) };
    let Some(last) = lines.last() else { return Fate::Lost(format!("nothing, with status {status}")) };
    if last["error"].as_str().is_some_and(|reason| !reason.is_empty()) {
        return Fate::Failed;
    }
    let said = |line: &Value| line["message"]["content"].as_str().or(line["response"].as_str()).map(str::to_owned);
    let said: String = lines.iter().filter_map(said).collect();
    if status == 200 && last["done"] == true && said == words {
        return Fate::Answered;
    }
    let (said, words) = (said.chars().take(200).collect::<String>(), words.chars().take(200).collect::<String>());
    Fate::Lost(format!("{status} {said:?} where {words:?} was asked for, and last {last}"))
}
