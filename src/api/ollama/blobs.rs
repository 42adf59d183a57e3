//! `/api/blobs/:digest`: files that a later create names (ollama-api §4.8). They go to the disk as they come.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::error::ApiError;
use crate::api::{self, App, Body, Call, Reply};
use crate::model::digest::Sha256Digest;

/// Pieces of a body that may wait for the disk.
const WAITING_PIECES: usize = 8;

/// `HEAD` asks whether the file is there, `POST` brings it.
///
/// # Errors
/// [`ApiError`], to be told in Ollama's shape.
pub async fn blob(app: Arc<App>, mut call: Call) -> Result<Reply, ApiError> {
    // Clients that escape the colon mean the same.
    let text = call.parameter.replace("%3A", ":").replace("%3a", ":");
    let digest = Sha256Digest::parse_prefixed(&text)?;
    let there = app.store.blobs().find(&digest).is_some();
    if call.method == Method::HEAD {
        return if there { Ok(empty(StatusCode::OK)) } else { Err(ApiError::NoBlob(digest)) };
    }
    if there {
        call.upload.discard().await;
        return Ok(empty(StatusCode::OK));
    }
    match receive(&app, &mut call.upload, digest).await {
        Ok(()) => Ok(empty(StatusCode::CREATED)),
        Err(error) => {
            call.upload.discard().await;
            Err(error)
        }
    }
}

/// Writes and hashes what comes, on a thread of its own; whoever drops this ends that too.
async fn receive(app: &App, body: &mut api::Upload, digest: Sha256Digest) -> Result<(), ApiError> {
    let blobs = app.store.blobs().clone();
    if let (Some(needed), free) = (body.length(), blobs.free()?)
        && needed > free
    {
        return Err(ApiError::NoRoom(needed, free));
    }
    let mut upload = blobs.upload().await?;
    let (sender, mut pieces) = mpsc::channel::<Bytes>(WAITING_PIECES);
    let writing = spawn_blocking(move || {
        while let Some(piece) = pieces.blocking_recv() {
            upload.write(&piece)?;
        }
        Ok::<_, std::io::Error>(upload)
    });
    while let Some(piece) = body.next().await? {
        // The disk has refused one before: the thread says why.
        if sender.send(piece).await.is_err() {
            break;
        }
    }
    drop(sender);
    let upload = writing.await.map_err(|error| ApiError::Store(error.to_string()))??;
    let wanted = digest.clone();
    let kept = spawn_blocking(move || blobs.keep(upload, &wanted)).await;
    let kept = kept.map_err(|error| ApiError::Store(error.to_string()))??;
    kept.map_err(|found| ApiError::DigestMismatch(digest, found))
}

/// An answer without a word.
pub(super) fn empty(status: StatusCode) -> Reply {
    let mut reply = Reply::new(Body::Whole(None));
    *reply.status_mut() = status;
    reply
}
