//! The one task that knows which pulls run. Listeners join by name and share one; it goes on while at least one of them
//! listens.

use std::collections::HashMap;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{Id, JoinSet};

use super::progress::{Phase, Progress};
use super::{Outcome, PullError};
use crate::model::ModelName;

/// Pulls that download at the same time; others wait for their turn.
const AT_A_TIME: usize = 2;

/// Does one pull and publishes how far it is.
pub(super) type Work =
    Box<dyn Fn(ModelName, Arc<watch::Sender<Progress>>) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send>;

/// What the owner is asked.
pub(super) enum Order {
    /// Join the pull of this name, or begin it.
    Join(ModelName, oneshot::Sender<watch::Receiver<Progress>>),
    /// End all pulls and take no more.
    Close,
}

pub(super) struct Owner {
    work: Work,
    places: Arc<Semaphore>,
    pulls: HashMap<ModelName, Arc<watch::Sender<Progress>>>,
    tasks: JoinSet<Option<Outcome>>,
    names: HashMap<Id, ModelName>,
    closed: bool,
}

impl Owner {
    pub(super) fn new(work: Work) -> Self {
        Self {
            work,
            places: Arc::new(Semaphore::new(AT_A_TIME)),
            pulls: HashMap::new(),
            tasks: JoinSet::new(),
            names: HashMap::new(),
            closed: false,
        }
    }

    /// Obeys until nobody is left who could ask; what still runs then ends.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Join(name, reply)) => {
                        let receiver = self.join(name);
                        // Whoever asked may be gone; then the pull finds that nobody listens.
                        let _ = reply.send(receiver);
                    }
                    Some(Order::Close) => self.close(),
                    None => return,
                },
                Some(ended) = self.tasks.join_next_with_id() => match ended {
                    Ok((id, outcome)) => self.ended(id, outcome),
                    Err(error) => {
                        let outcome = PullError::Failed("a bug in vllama ended it; please report this".to_owned());
                        self.ended(error.id(), Some(Err(outcome)));
                    }
                },
            }
        }
    }

    fn join(&mut self, name: ModelName) -> watch::Receiver<Progress> {
        if self.closed {
            let outcome = Some(Err(PullError::Stopping));
            return watch::Sender::new(Progress { outcome, ..Progress::default() }).subscribe();
        }
        if let Some(progress) = self.pulls.get(&name) {
            return progress.subscribe();
        }
        let progress = Arc::new(watch::Sender::new(Progress::default()));
        let receiver = progress.subscribe();
        self.begin(name, progress);
        receiver
    }

    fn begin(&mut self, name: ModelName, progress: Arc<watch::Sender<Progress>>) {
        let work = (self.work)(name.clone(), progress.clone());
        let task = self.tasks.spawn(pull(work, progress.clone(), self.places.clone()));
        self.names.insert(task.id(), name.clone());
        self.pulls.insert(name, progress);
    }

    fn ended(&mut self, id: Id, outcome: Option<Outcome>) {
        let Some(name) = self.names.remove(&id) else { return };
        let Some(progress) = self.pulls.remove(&name) else { return };
        match outcome {
            Some(outcome) => progress.send_modify(|progress| progress.outcome = Some(outcome)),
            // Given up because nobody listened; but somebody has come in the meantime.
            None if progress.receiver_count() > 0 => {
                progress.send_modify(|progress| *progress = Progress::default());
                self.begin(name, progress);
            }
            None => tracing::info!(model = %name, "nobody waits for this pull any more; it can go on later"),
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.tasks.abort_all();
        self.names.clear();
        for (_, progress) in self.pulls.drain() {
            progress.send_modify(|progress| progress.outcome = Some(Err(PullError::Stopping)));
        }
    }
}

/// Works when there is a place, until it is done (`Some`) or nobody listens (`None`).
async fn pull(
    work: Pin<Box<dyn Future<Output = Outcome> + Send>>,
    progress: Arc<watch::Sender<Progress>>,
    places: Arc<Semaphore>,
) -> Option<Outcome> {
    let work = async {
        // Nobody closes the semaphore.
        let _place = places.acquire().await;
        work.await
    };
    tokio::select! {
        biased;
        outcome = work => Some(outcome),
        () = abandoned(&progress) => None,
    }
}

/// Waits until nobody listens. What is completely here is installed all the same.
async fn abandoned(progress: &watch::Sender<Progress>) {
    progress.closed().await;
    if progress.borrow().phase != Phase::Fetching {
        pending().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// Longest wait for anything.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// An owner whose work ends, with an error that is as good as any, when a permit is given out.
    struct Stage {
        orders: mpsc::Sender<Order>,
        running: Arc<AtomicUsize>,
        begun: Arc<AtomicUsize>,
        ends: Arc<Semaphore>,
    }

    /// Counts as running until it is dropped.
    struct Counted(Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    impl Stage {
        fn new() -> Self {
            let (running, begun) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let ends = Arc::new(Semaphore::new(0));
            let shared = (running.clone(), begun.clone(), ends.clone());
            let work: Work = Box::new(move |_name, _progress| {
                let (running, begun, ends) = shared.clone();
                Box::pin(async move {
                    begun.fetch_add(1, Ordering::SeqCst);
                    running.fetch_add(1, Ordering::SeqCst);
                    let _running = Counted(running);
                    ends.acquire().await.expect("open").forget();
                    Err(PullError::Offline)
                })
            });
            let (orders, receiver) = mpsc::channel(8);
            tokio::spawn(Owner::new(work).run(receiver));
            Self { orders, running, begun, ends }
        }

        async fn join(&self, name: &str) -> watch::Receiver<Progress> {
            let (reply, receiver) = oneshot::channel();
            let name = ModelName::parse(name).expect("a name");
            assert!(self.orders.send(Order::Join(name, reply)).await.is_ok());
            receiver.await.expect("an answer")
        }

        async fn runs(&self, number: usize) {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while self.running.load(Ordering::SeqCst) != number {
                assert!(tokio::time::Instant::now() < deadline, "{number} run");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }

        fn begun(&self) -> usize {
            self.begun.load(Ordering::SeqCst)
        }
    }

    async fn outcome(mut receiver: watch::Receiver<Progress>) -> PullError {
        let ended = receiver.wait_for(|progress| progress.outcome.is_some());
        let ended = tokio::time::timeout(PATIENCE, ended).await.expect("in time").expect("an outcome").clone();
        ended.outcome.expect("an outcome").expect_err("the error of the stage")
    }

    #[tokio::test]
    async fn two_who_pull_one_name_share_one_pull_in_any_spelling() {
        let stage = Stage::new();
        let (one, other) = (stage.join("a").await, stage.join("A:latest").await);
        stage.runs(1).await;
        stage.ends.add_permits(1);
        assert_eq!((outcome(one).await, outcome(other).await), (PullError::Offline, PullError::Offline));
        assert_eq!(stage.begun(), 1);
    }

    #[tokio::test]
    async fn a_pull_goes_on_while_one_listens_and_stops_with_the_last() {
        let stage = Stage::new();
        let (one, other) = (stage.join("a").await, stage.join("a").await);
        stage.runs(1).await;
        drop(one);
        drop(stage.join("a").await);
        assert_eq!(stage.running.load(Ordering::SeqCst), 1, "the other still listens");
        drop(other);
        stage.runs(0).await;
    }

    #[tokio::test]
    async fn whoever_comes_while_a_pull_is_given_up_gets_a_new_one() {
        let stage = Stage::new();
        for _ in 0..50 {
            drop(stage.join("a").await);
            let again = stage.join("a").await;
            stage.runs(1).await;
            stage.ends.add_permits(1);
            assert_eq!(outcome(again).await, PullError::Offline);
        }
    }

    #[tokio::test]
    async fn two_download_at_a_time_and_the_third_waits() {
        let stage = Stage::new();
        let pulls = [stage.join("a").await, stage.join("b").await, stage.join("c").await];
        stage.runs(2).await;
        stage.ends.add_permits(1);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while stage.begun() < 3 {
            assert!(tokio::time::Instant::now() < deadline, "the third begins");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(stage.running.load(Ordering::SeqCst) <= 2);
        stage.ends.add_permits(2);
        for pull in pulls {
            outcome(pull).await;
        }
    }

    #[tokio::test]
    async fn a_stop_ends_what_runs_and_refuses_what_comes() {
        let stage = Stage::new();
        let running = stage.join("a").await;
        stage.runs(1).await;
        assert!(stage.orders.send(Order::Close).await.is_ok());
        assert_eq!(outcome(running).await, PullError::Stopping);
        assert_eq!(outcome(stage.join("b").await).await, PullError::Stopping);
        stage.runs(0).await;
    }
}
