//! Between how many GPUs a model can be split.

use crate::model::Card;

/// Whether a feed-forward layer of this width can be split without cutting through weights that share a scale.
fn splits_evenly(card: &Card, width: u64, gpus: u64) -> bool {
    let group = card.quantization.as_ref().map_or(0, |quantization| quantization.group);
    group == 0 || width == 0 || (width.is_multiple_of(gpus) && (width / gpus).is_multiple_of(group))
}

/// Whether all feed-forward layers, or the experts', can be split.
pub(super) fn is_even(card: &Card, gpus: u64) -> bool {
    match card.experts {
        Some(experts) if experts.feed_forward_length > 0 => splits_evenly(card, experts.feed_forward_length, gpus),
        _ => splits_evenly(card, card.feed_forward_length, gpus),
    }
}

/// Whether the heads can be dealt out: each GPU gets as many, and as many key/value heads or a copy of one.
pub(super) fn heads_split(card: &Card, gpus: u64) -> bool {
    let (fewer, more) = (gpus.min(card.head_count_kv), gpus.max(card.head_count_kv));
    card.head_count.is_multiple_of(gpus)
        && (card.attention.latent_length > 0 || fewer == 0 || more.is_multiple_of(fewer))
}

/// Whether it can be split at all: experts can stay whole, other layers cannot.
pub(super) fn can_split(card: &Card, gpus: u64) -> bool {
    gpus == 1 || is_even(card, gpus) || card.experts.is_some_and(|experts| experts.count.is_multiple_of(gpus))
}
