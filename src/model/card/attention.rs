//! What a model's layers remember of a sequence: from it follows the size of its key/value cache (vllm-engine §5.6).

use serde_json::Value;

use super::config::Facts;

/// Layers that see the last tokens alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// How many layers there are of the kind.
    pub layers: u64,
    /// How many tokens such a layer sees.
    pub length: u64,
}

/// What a model's layers remember of a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attention {
    /// Width of one head.
    pub head_length: u64,
    /// Numbers that one layer keeps of one token with latent attention (MLA), whatever the heads; 0 = the heads' keys
    /// and values are kept.
    pub latent_length: u64,
    /// Layers that see the whole sequence.
    pub full_layers: u64,
    /// Layers that see a window.
    pub window: Window,
    /// Layers with a state of constant size (Mamba, linear attention, convolutions).
    pub state_layers: u64,
    /// Numbers in one such layer's state of one sequence, where the configuration tells.
    pub state_length: u64,
    /// Whether it reads the whole text at once and keeps nothing (BERT and its kin).
    pub encoder: bool,
}

/// Architectures that look both ways and need no cache, by a part of their names.
const ENCODERS: [&str; 8] =
    ["Bert", "Roberta", "Electra", "MPNet", "GteModel", "GteNewModel", "NewModel", "Gemma3TextModel"];

pub(super) fn of(facts: &Facts<'_>, architecture: &str, layers: u64) -> Attention {
    let heads = facts.number(&["num_attention_heads", "n_head", "n_heads", "num_heads"]).max(1);
    let width = facts.number(&["hidden_size", "n_embd", "d_model", "dim"]);
    let latent = facts.maybe(&["kv_lora_rank"]).map(|rank| rank + facts.number(&["qk_rope_head_dim"]));
    let encoder = ENCODERS.iter().any(|part| architecture.contains(part))
        || facts.flag("is_causal") == Some(false)
        || facts.flag("use_bidirectional_attention") == Some(true);
    let mut attention = Attention {
        head_length: facts.maybe(&["head_dim"]).unwrap_or(width / heads),
        latent_length: latent.unwrap_or_default(),
        state_length: state_length(facts),
        encoder,
        ..Attention::default()
    };
    if encoder {
        return attention;
    }
    let kinds = kinds(facts, layers);
    let count = |kind| kinds.iter().filter(|other| **other == kind).count() as u64;
    attention.full_layers = count(Kind::Full);
    attention.state_layers = count(Kind::State);
    attention.window = Window { layers: count(Kind::Window), length: window_length(facts) };
    // A window that nothing ever fills is none.
    let context = facts.number(&["max_position_embeddings", "max_seq_len"]);
    if attention.window.length == 0 || (context > 0 && attention.window.length >= context) {
        attention.full_layers += attention.window.layers;
        attention.window = Window::default();
    }
    attention
}

/// What one layer remembers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Full,
    Window,
    State,
    Nothing,
}

/// Most layers that are looked at; a configuration may say anything.
const MOST_LAYERS: u64 = 4096;

fn kinds(facts: &Facts<'_>, layers: u64) -> Vec<Kind> {
    let layers = layers.min(MOST_LAYERS);
    if let Some(Value::Array(names)) = facts.value(&["layer_types", "layers_block_type"]) {
        // A draft layer may be listed behind the model's own.
        let most = usize::try_from(layers).unwrap_or(usize::MAX);
        return names.iter().take(most).map(|name| named(name.as_str().unwrap_or_default())).collect();
    }
    if let Some(Value::String(pattern)) = facts.value(&["hybrid_override_pattern"]) {
        let kind = |letter| match letter {
            '*' => Kind::Full,
            'M' => Kind::State,
            _ => Kind::Nothing,
        };
        return pattern.chars().take(4096).map(kind).collect();
    }
    if let Some(Value::Array(numbers)) = facts.value(&["attn_type_list"]) {
        return numbers.iter().map(|number| if number == 1 { Kind::Full } else { Kind::State }).collect();
    }
    let each = |kind: &dyn Fn(u64) -> Kind| (0..layers).map(kind).collect::<Vec<_>>();
    if let Some(period) = facts.maybe(&["attn_layer_period"]).filter(|period| *period > 0) {
        let offset = facts.number(&["attn_layer_offset"]);
        return each(&|layer| if layer % period == offset { Kind::Full } else { Kind::State });
    }
    if let Some(interval) = facts.maybe(&["full_attention_interval"]).filter(|interval| *interval > 0) {
        return each(&|layer| if (layer + 1) % interval == 0 { Kind::Full } else { Kind::State });
    }
    let windowed = window_length(facts) > 0 && facts.flag("use_sliding_window") != Some(false);
    if !windowed {
        return vec![Kind::Full; usize::try_from(layers).unwrap_or_default()];
    }
    // Every n-th layer sees everything: Llama 4 names it one way, Gemma 3 and Cohere another; Gemma 2 names none.
    let family = facts.value(&["model_type"]).and_then(Value::as_str).unwrap_or_default();
    let assumed = match family {
        "gemma2" => Some(2),
        "llama4_text" => Some(4),
        _ => None,
    };
    let pattern = facts.maybe(&["no_rope_layer_interval", "sliding_window_pattern", "_sliding_window_pattern"]);
    match pattern.or(assumed).filter(|pattern| *pattern > 0) {
        Some(pattern) => each(&|layer| if (layer + 1) % pattern == 0 { Kind::Full } else { Kind::Window }),
        None => {
            // Qwen's windows begin at a layer.
            let first = facts.number(&["max_window_layers"]);
            each(&|layer| if layer < first { Kind::Full } else { Kind::Window })
        }
    }
}

fn named(name: &str) -> Kind {
    match name {
        "full_attention" | "attention" | "full" | "global" => Kind::Full,
        "sliding_attention" | "chunked_attention" | "local" => Kind::Window,
        "linear_attention" | "mamba" | "mamba2" | "conv" | "recurrent" | "hybrid" => Kind::State,
        _ if name.contains("attention") => Kind::Full,
        _ => Kind::Nothing,
    }
}

fn window_length(facts: &Facts<'_>) -> u64 {
    facts.maybe(&["sliding_window", "attention_chunk_size"]).unwrap_or_default()
}

/// Numbers in one layer's state: Mamba's, or that of gated linear attention.
fn state_length(facts: &Facts<'_>) -> u64 {
    let product = |numbers: [u64; 3]| numbers.into_iter().fold(1_u64, u64::saturating_mul);
    let mamba = product([
        facts.number(&["mamba_n_heads", "mamba_num_heads"]),
        facts.number(&["mamba_d_head", "mamba_head_dim"]),
        facts.number(&["mamba_d_state", "ssm_state_size"]),
    ]);
    let linear = product([
        facts.number(&["linear_num_value_heads"]),
        facts.number(&["linear_key_head_dim"]),
        facts.number(&["linear_value_head_dim"]),
    ]);
    mamba.max(linear)
}

#[cfg(test)]
mod tests {
    use super::super::config::facts_of;
    use super::*;

    fn layers(config: &str) -> (u64, u64, u64) {
        let config: Value = serde_json::from_str(config).expect("JSON");
        let layers = config["num_hidden_layers"].as_u64().expect("a number");
        let attention = of(&facts_of(&config), "XForCausalLM", layers);
        (attention.full_layers, attention.window.layers, attention.state_layers)
    }

    #[test]
    fn every_way_to_write_the_kinds_of_layers_is_read() {
        for (config, expected) in [
            (r#"{"num_hidden_layers":28,"sliding_window":32768,"use_sliding_window":false}"#, (28, 0, 0)),
            (r#"{"num_hidden_layers":32,"sliding_window":4096,"max_position_embeddings":32768}"#, (0, 32, 0)),
            (r#"{"num_hidden_layers":32,"sliding_window":262144,"max_position_embeddings":131072}"#, (32, 0, 0)),
            (r#"{"num_hidden_layers":26,"sliding_window":4096,"model_type":"gemma2"}"#, (13, 13, 0)),
            (r#"{"num_hidden_layers":34,"sliding_window":1024,"sliding_window_pattern":6}"#, (5, 29, 0)),
            (r#"{"num_hidden_layers":48,"attention_chunk_size":8192,"model_type":"llama4_text"}"#, (12, 36, 0)),
            (r#"{"num_hidden_layers":48,"full_attention_interval":4}"#, (12, 0, 36)),
            (r#"{"num_hidden_layers":32,"attn_layer_period":8,"attn_layer_offset":4}"#, (4, 0, 28)),
            (r#"{"num_hidden_layers":6,"hybrid_override_pattern":"M-M*-M"}"#, (1, 0, 3)),
            (r#"{"num_hidden_layers":3,"layer_types":["mamba","attention","mamba"]}"#, (1, 0, 2)),
            (
                r#"{"num_hidden_layers":2,"sliding_window":128,"layer_types":["sliding_attention","full_attention"]}"#,
                (1, 1, 0),
            ),
        ] {
            assert_eq!(layers(config), expected, "{config}");
        }
    }

    #[test]
    fn an_encoder_remembers_nothing() {
        let config = serde_json::json!({"hidden_size": 384, "num_attention_heads": 12});
        let attention = of(&facts_of(&config), "BertModel", 6);
        assert!(attention.encoder && attention.full_layers == 0);
    }
}
