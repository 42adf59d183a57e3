//! Pulls: a name becomes an installed model, its files downloaded from the Hugging Face hub.
//!
//! In: a [`ModelName`] and somebody who listens. Out: [`Step`]s, and the [`Installed`] model or a [`PullError`].
//!
//! ```text
//!  listener ── Join(name) ──> owner ── one task a name ──> download.py in the engine's Python ──> Store
//!  listener <── watch ─────── owner <── layers ──────────── JSON lines
//! ```
//!
//! Everybody who pulls a name shares one download; it stops when the last of them is gone, and what has come stays in
//! `<models>/.downloads/` for the next time. Nothing is installed before all of it is here and verified.

mod download;
mod error;
mod origin;
mod owner;
mod place;
mod progress;

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::python::Python;
use super::store::Prepared;
use super::{Installed, ModelName, Store};
use download::Workshop;
use owner::{Order, Owner};
use progress::Told;

pub use error::PullError;
pub use origin::Origin;
pub use progress::Step;

/// Gives what was pulled its name. It comes from outside this room, since whoever serves the model that has the name now
/// has to let go of it first.
pub type Publish =
    Arc<dyn Fn(ModelName, Prepared) -> Pin<Box<dyn Future<Output = io::Result<Arc<Installed>>> + Send>> + Send + Sync>;

/// How a pull ends.
type Outcome = Result<Arc<Installed>, PullError>;

/// A listener is told no more often than this.
const CADENCE: Duration = Duration::from_millis(60);

/// Orders that may wait for the owner.
const WAITING_ORDERS: usize = 64;

/// Pulls models. Cheap to clone; when the last clone is gone all pulls end.
#[derive(Clone, Debug)]
pub struct Pulls {
    orders: mpsc::Sender<Order>,
}

impl Pulls {
    /// Starts the owner of all pulls, inside a tokio runtime. `downloads` keeps what is unfinished; it must be in the
    /// file system of the store.
    #[must_use]
    pub fn start(store: Store, python: Python, downloads: PathBuf, publish: Publish) -> Self {
        let workshop = Workshop { store, python, downloads, publish };
        let work = Box::new(move |name, progress| -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
            Box::pin(workshop.clone().pull(name, progress))
        });
        let (orders, receiver) = mpsc::channel(WAITING_ORDERS);
        tokio::spawn(Owner::new(work).run(receiver));
        Self { orders }
    }

    /// Pulls this model, or joins a pull of it that runs, and tells each step. Dropping the future stops listening, and
    /// the last who stops listening stops the download.
    ///
    /// # Errors
    /// Why there is no such model now.
    pub async fn pull(&self, name: &ModelName, mut tell: impl FnMut(Step<'_>)) -> Result<Arc<Installed>, PullError> {
        let (reply, receiver) = oneshot::channel();
        self.orders.send(Order::Join(name.clone(), reply)).await.map_err(|_| PullError::Stopping)?;
        let mut progress = receiver.await.map_err(|_| PullError::Stopping)?;
        let mut told = Told::default();
        loop {
            let seen = progress.borrow_and_update().clone();
            told.tell(&seen, &mut tell);
            if let Some(outcome) = seen.outcome {
                return outcome;
            }
            // What happens in between is told together.
            let pause = tokio::time::sleep(CADENCE);
            progress.changed().await.map_err(|_| PullError::Stopping)?;
            if progress.borrow().outcome.is_none() {
                pause.await;
            }
        }
    }

    /// Ends all pulls and begins no more: their listeners get [`PullError::Stopping`].
    pub async fn close(&self) {
        // Without an owner there is nothing to end.
        let _ = self.orders.send(Order::Close).await;
    }
}
