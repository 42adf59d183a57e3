//! Changes of what a name stands for, shared by create, copy, delete and pull: one at a time, and not under a running request.

use std::io;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::error::ApiError;
use crate::api::App;
use crate::model::pull::Publish;
use crate::model::{ModelName, Store};
use crate::scheduler::Scheduler;

/// Changes what `name` stands for. When the engine of the model that has the name now is needed by no other model, and
/// has not the key `next` either, its requests are waited for and it is stopped first: its files are about to go.
///
/// Goes on to its end when nobody waits for it any more, since half a change is none.
///
/// # Errors
/// [`ApiError::Store`], or [`ApiError::NotSupported`] for a checkpoint that is none.
pub async fn change<T: Send + 'static>(
    app: &Arc<App>,
    name: &ModelName,
    next: Option<String>,
    act: impl FnOnce(&Store) -> io::Result<T> + Send + 'static,
) -> Result<T, ApiError> {
    Ok(exchange(app.store.clone(), app.scheduler.clone(), name.clone(), next, act).await?)
}

/// As [`change`], for whoever is no handler.
async fn exchange<T: Send + 'static>(
    store: Store,
    scheduler: Scheduler,
    name: ModelName,
    next: Option<String>,
    act: impl FnOnce(&Store) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let task = tokio::spawn(async move {
        let _lock = store.lock(&name).await?;
        let goes = store
            .find(&name)
            .filter(|model| next.as_deref() != Some(model.engine_key().as_str()) && !store.shares_engine(model));
        // Held until the name stands for something else, so that nobody starts the engine again from files that go.
        let _retired = match goes {
            Some(model) => Some(scheduler.retire(&model).await),
            None => None,
        };
        spawn_blocking(move || act(&store)).await?
    });
    // A panic has been logged with its place.
    task.await?
}

/// How pulls give a model its name.
#[must_use]
pub fn publisher(store: Store, scheduler: Scheduler) -> Publish {
    Arc::new(move |name, prepared| {
        let (store, scheduler, key) = (store.clone(), scheduler.clone(), prepared.engine_key());
        Box::pin(exchange(store, scheduler, name.clone(), Some(key), move |store| store.publish(prepared, &name)))
    })
}

/// Runs what reads or writes the disk for long, away from the threads that answer.
///
/// # Errors
/// What the store says.
pub async fn blocking<T: Send + 'static>(act: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, ApiError> {
    match spawn_blocking(act).await {
        Ok(outcome) => Ok(outcome?),
        // It panicked, which has been logged with its place, or vllama is going down.
        Err(error) => Err(ApiError::Store(error.to_string())),
    }
}
