//! How many may be here at a time, and what happens to those who come when the house is full.
//!
//! Every connection costs a descriptor, and a request may cost a second one: its connection to an engine, or the file of an
//! upload. Both are bounded, so that descriptors never run out for engines' pipes and logs (decision 0042). Who finds no
//! place takes that of the connection that has rested longest; where none rests it is let in as far as the lobby, where
//! operators' questions are answered and everything else is told to come back. The lobby has few places, too: the one who
//! has been there longest goes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

/// How long a connection that rests may take to make room: it only has to be told.
const MAKING_ROOM: Duration = Duration::from_millis(50);

/// How often the operator is told that clients are refused.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Bodies of this many requests of the longest allowed length may be in memory at a time; others have to come back.
const WHOLE_BODIES: usize = 16;

/// Who is here.
#[derive(Debug)]
pub struct Crowd {
    places: Arc<Semaphore>,
    most: usize,
    requests: Arc<Semaphore>,
    /// Those that rest and would make room, the one that has rested longest first.
    resting: Notify,
    lobby: Arc<Semaphore>,
    /// What makes those in the lobby go, the oldest first.
    waiting: Mutex<VecDeque<oneshot::Sender<()>>>,
    /// When the operator was told of it last.
    told: Mutex<Option<Instant>>,
    /// Bytes of request bodies that are in memory.
    bodies: AtomicUsize,
}

/// A connection that is counted until it is dropped.
#[derive(Debug)]
pub struct Guest {
    crowd: Arc<Crowd>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Own(#[expect(dead_code, reason = "counts")] OwnedSemaphorePermit),
    Lobby {
        _permit: Option<OwnedSemaphorePermit>,
        /// Its sender is dropped when it is time to go.
        leave: oneshot::Receiver<()>,
    },
}

/// Bytes of a body, counted until dropped.
#[derive(Debug)]
pub struct Held {
    crowd: Arc<Crowd>,
    bytes: usize,
    most: usize,
}

impl Crowd {
    /// So many connections at a time, so many more in the lobby, and so many requests that need a second descriptor.
    pub fn new(connections: usize, lobby: usize, requests: usize) -> Self {
        Self {
            places: semaphore(connections),
            most: connections,
            requests: semaphore(requests),
            resting: Notify::new(),
            lobby: semaphore(lobby),
            waiting: Mutex::default(),
            told: Mutex::default(),
            bodies: AtomicUsize::new(0),
        }
    }

    /// Most connections at a time.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Lets a connection in, to a place where there is one, else to the lobby.
    pub async fn enter(self: &Arc<Self>) -> Guest {
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place) => Place::Own(place),
            Err(_) => self.enter_lobby().await,
        };
        Guest { crowd: self.clone(), place }
    }

    /// A place in the lobby, which the one who has been there longest gives up when there is none.
    async fn enter_lobby(&self) -> Place {
        let (go, leave) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            // Some have left by themselves, or found a place.
            waiting.retain(|guest| !guest.is_closed());
            if self.lobby.available_permits() == 0 {
                waiting.pop_front();
            }
            waiting.push_back(go);
        }
        // Nobody closes the semaphore.
        Place::Lobby { _permit: self.lobby.clone().acquire_owned().await.ok(), leave }
    }

    /// The right to a second descriptor for a request; `None` when all are taken.
    pub fn request(&self) -> Option<OwnedSemaphorePermit> {
        self.requests.clone().try_acquire_owned().ok()
    }

    /// Counts the bytes of a body, of which each may have `longest`.
    pub fn body(self: &Arc<Self>, longest: usize) -> Held {
        Held { crowd: self.clone(), bytes: 0, most: longest.saturating_mul(WHOLE_BODIES) }
    }

    /// Tells the operator now and then that somebody was told to come back.
    pub fn tell_of_refusals(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            *told = Some(Instant::now());
            tracing::warn!(most = self.most, "there is no place for more clients; some are told to come back");
        }
    }

    /// Waits until somebody needs the place of a connection that begins to rest now.
    pub async fn needs_room(&self) {
        self.resting.notified().await;
    }
}

impl Guest {
    /// Takes the place of a connection that rests, if there is one; false when it has to leave before it has found any.
    pub async fn find_place(&mut self) -> bool {
        let Place::Lobby { leave, .. } = &mut self.place else { return true };
        self.crowd.resting.notify_one();
        let place = self.crowd.places.clone().acquire_owned();
        let found = tokio::select! {
            found = timeout(MAKING_ROOM, place) => found.ok().and_then(Result::ok),
            _ = leave => return false,
        };
        if let Some(place) = found {
            self.place = Place::Own(place);
        }
        true
    }

    /// Whether it is only in the lobby.
    pub fn is_in_lobby(&self) -> bool {
        matches!(self.place, Place::Lobby { .. })
    }

    /// Waits until it has to leave the lobby for others; for ever where it has a place.
    pub async fn has_to_leave(&mut self) {
        match &mut self.place {
            Place::Lobby { leave, .. } => _ = leave.await,
            Place::Own(_) => std::future::pending().await,
        }
    }
}

impl Held {
    /// Counts so many bytes more; false when there are too many in memory.
    pub fn add(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        self.crowd.bodies.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.most
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.crowd.bodies.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn semaphore(permits: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)))
}
