//! What it costs to give a model its turn: vllama ends one engine and starts another, beside a bare start of vLLM with the
//! same command line. Both times end with the first token (issue 3, shown by 3).

use std::path::Path;

use crate::bare::Bare;
use crate::load::{self, Target};
use crate::server::{EMBEDDER, Server};

/// Swaps, and bare starts, in turns.
const ROUNDS: usize = 3;

/// Seconds to the first token: bare starts, and swaps.
pub async fn measure(venv: &Path) -> [Vec<f64>; 2] {
    let one_at_a_time = [("OLLAMA_MAX_LOADED_MODELS", "1"), ("VLLAMA_MIN_RESIDENCE", "0")];
    let server = Server::start_real(venv, &one_at_a_time).await;
    let gateway = Target::Vllama(server.address);
    let bare = Bare::like(&server.socket());
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        load::embed(&gateway, EMBEDDER).await;
        times[1].push(load::first_lines(&gateway, 1).await[0] / 1000.0);
        // A bare start has the machine for itself, as a swap has.
        load::unload(&gateway).await;
        times[0].push(bare.first_token().await.as_secs_f64());
    }
    times
}
