//! How much memory an engine needs, estimated before anybody has measured it (vllm-engine §5.6).

use crate::model::Card;

/// GiB, for the engine's memory figures.
pub(super) const GIB: u64 = 1 << 30;

/// Memory an engine is expected to hold on its device, in bytes: main memory on the CPU, else that of each of its GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Memory {
    /// The weights.
    pub weights: u64,
    /// Key/value cache.
    pub cache: u64,
    /// All else: libraries, activations, graphs.
    pub overhead: u64,
}

impl Memory {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.overhead)
    }
}

/// Bytes of key/value cache that one layer takes for one token on each of `gpus` GPUs, at `size` bytes a number.
fn layer_bytes(card: &Card, gpus: u64, size: u64) -> u64 {
    let numbers = match card.attention.latent_length {
        // Keys and values; a head is never split, and what cannot be split is there on each GPU.
        0 => 2 * (card.head_count_kv / gpus.max(1)).max(1).saturating_mul(card.attention.head_length),
        latent => latent,
    };
    numbers.saturating_mul(size)
}

/// Bytes of key/value cache per token on each of `gpus` GPUs, while no window is full.
#[must_use]
pub fn cache_bytes_per_token(card: &Card, gpus: u64, size: u64) -> u64 {
    let layers = card.attention.full_layers + card.attention.window.layers;
    layers.saturating_mul(layer_bytes(card, gpus, size))
}

/// Bytes of cache for one sequence of `tokens` on each of `gpus` GPUs; `batch` is the most tokens of one step, which a
/// window must hold beside its own.
#[must_use]
pub fn cache_bytes(card: &Card, tokens: u64, gpus: u64, size: u64, batch: u64) -> u64 {
    let attention = &card.attention;
    let windowed = tokens.min((attention.window.length + batch).saturating_sub(1));
    let kept = attention.full_layers.saturating_mul(tokens) + attention.window.layers.saturating_mul(windowed);
    // States are kept in 32 bits, and split between GPUs.
    let states = attention.state_layers.saturating_mul(attention.state_length).saturating_mul(4) / gpus.max(1);
    kept.saturating_mul(layer_bytes(card, gpus, size)).saturating_add(states)
}

/// Tokens for which `bytes` of cache suffice on each of `gpus` GPUs, when all belong to one sequence; `None` where a
/// token takes no room.
#[must_use]
pub fn cache_tokens(card: &Card, bytes: u64, gpus: u64, size: u64, batch: u64) -> Option<u64> {
    let layer = layer_bytes(card, gpus, size);
    let full = card.attention.full_layers.saturating_mul(layer);
    let windows = card.attention.window.layers.saturating_mul(layer);
    let windowed = card.attention.window.length + batch;
    let while_growing = bytes.checked_div(full + windows)?;
    if while_growing <= windowed {
        return Some(while_growing);
    }
    // From there on only the layers that see everything grow.
    (bytes - windows.saturating_mul(windowed)).checked_div(full)
}

/// Bytes as people read them.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub fn gibibytes(bytes: u64) -> String {
    match bytes {
        0 => "0".into(),
        _ if bytes < 100 << 20 => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::card::{Attention, Window};

    fn card(layers: u64, kv_heads: u64, head_length: u64) -> Card {
        Card {
            head_count_kv: kv_heads,
            attention: Attention { head_length, full_layers: layers, ..Attention::default() },
            ..Card::default()
        }
    }

    #[test]
    fn the_published_figures_per_token_come_out() {
        for (name, card, bytes) in [
            ("Qwen2.5-7B", card(28, 4, 128), 56 << 10),
            ("Qwen3-0.6B", card(28, 8, 128), 112 << 10),
            ("Llama-3.1-8B", card(32, 8, 128), 128 << 10),
            ("Qwen3-8B", card(36, 8, 128), 144 << 10),
            ("Qwen3-32B", card(64, 8, 128), 256 << 10),
            ("Llama-3.3-70B", card(80, 8, 128), 320 << 10),
        ] {
            assert_eq!(cache_bytes_per_token(&card, 1, 2), bytes, "{name}");
            assert_eq!(cache_bytes_per_token(&card, 2, 2), bytes / 2, "{name}");
        }
        // DeepSeek-V3: 68.6 KiB, on every GPU.
        let latent = Attention { latent_length: 576, full_layers: 61, ..Attention::default() };
        let deepseek = Card { head_count_kv: 128, attention: latent, ..Card::default() };
        assert_eq!(cache_bytes_per_token(&deepseek, 1, 2), 70_272);
        assert_eq!(cache_bytes_per_token(&deepseek, 8, 2), 70_272);
        // SmolLM2-135M in float32, as its engine's log said: 2 GiB are 46,592 tokens (and one block that is never used).
        let smollm2 = card(30, 3, 64);
        assert_eq!(cache_bytes_per_token(&smollm2, 1, 4), 46_080);
        assert_eq!(cache_tokens(&smollm2, 2 * GIB, 1, 4, 2048).map(|tokens| tokens / 128 * 128), Some(46_592));
    }

    #[test]
    fn heads_that_cannot_be_split_are_on_every_gpu() {
        assert_eq!(cache_bytes_per_token(&card(1, 2, 64), 8, 2), 2 * 64 * 2);
    }

    #[test]
    fn a_full_window_grows_no_more() {
        let attention =
            Attention { head_length: 64, window: Window { layers: 1, length: 128 }, ..Attention::default() };
        let mut model = Card { head_count_kv: 1, attention, ..Card::default() };
        assert_eq!(cache_bytes(&model, 100, 1, 2, 32), 100 * 256);
        assert_eq!(cache_bytes(&model, 10_000, 1, 2, 32), 159 * 256);
        model.attention.full_layers = 1;
        assert_eq!(cache_bytes(&model, 10_000, 1, 2, 32), (159 + 10_000) * 256);
        assert_eq!(cache_tokens(&model, (160 + 10_000) * 256, 1, 2, 32), Some(10_000));
        assert_eq!(cache_tokens(&Card::default(), 1, 1, 2, 32), None);
    }

    #[test]
    fn states_cost_the_same_for_every_length() {
        let attention = Attention { state_layers: 3, state_length: 10, ..Attention::default() };
        let model = Card { attention, ..Card::default() };
        assert_eq!(cache_bytes(&model, 7, 1, 2, 32), 120);
        assert_eq!(cache_bytes(&model, 7_000, 1, 2, 32), 120);
    }
}
