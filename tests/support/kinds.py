"""Makes tiny checkpoints that vLLM serves: `checkpoints.py KIND DIRECTORY`.

No model of these kinds is small enough to be fetched for a test, and vLLM does not mind what weights it is given. So the
files are those of the real families, and the weights are made here: mostly noise from a fixed seed, but what a token is
followed by is written into them (`FOLLOWS` of each kind), so that a test knows what will be said. Everything but numpy,
safetensors and tokenizers is left alone, since the import of more takes longer than all the rest.
"""

import json
import sys
from pathlib import Path

import numpy
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

WIDTH = 128
HEADS = 4
GROUPS = 2
HEAD = WIDTH // HEADS

IM_END = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
FILL_IN = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"]
EYES = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]

# The languages that vLLM looks for in Whisper's vocabulary.
LANGUAGES = """af ar hy az be bs bg ca zh hr cs da nl en et fi fr gl de el he hi hu is id it ja kn kk ko lv lt mk ms mr mi
ne no fa pl pt ro ru sr sk sl es sw sv tl ta th tr uk ur vi cy""".split()

# A thought and an answer, each token with the one that follows it.
THOUGHT = ["<think>", "Let", " me", " look", "</think>", "\n\n", "It", " is", " small", IM_END]

noise = numpy.random.default_rng(7)


def chain(*texts):
    """Each token of `texts`, and the one behind it."""
    return dict(zip(texts, texts[1:]))


def random(*shape, scale=0.02):
    return (noise.standard_normal(shape) * scale).astype(numpy.float32)


def ones(*shape):
    return numpy.ones(shape, numpy.float32)


def zeros(*shape):
    return numpy.zeros(shape, numpy.float32)


def unit(rows):
    return rows / numpy.linalg.norm(rows, axis=-1, keepdims=True)


def bytes_and(special, words):
    """A tokenizer with a token for each byte, then `special` ones, then `words`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: place for place, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in words])
    return tokenizer


def write(directory, name, value):
    (directory / name).write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1))


def write_tokenizer(directory, tokenizer, **config):
    tokenizer.save(str(directory / "tokenizer.json"))
    write(directory, "tokenizer_config.json", {"model_max_length": 2048, **config})


def number(tokenizer, token):
    """The id of a token by its text: a line feed is a byte, whose token is spelt otherwise."""
    [found] = tokenizer.encode(token, add_special_tokens=False).ids
    return found


def embeddings(tokenizer, follows):
    """A direction for each token; those that nothing follows share most of theirs, that of token 0."""
    rows = unit(random(tokenizer.get_vocab_size(), WIDTH))
    rest = sorted(set(range(len(rows))) - {number(tokenizer, token) for token in follows})
    rows[rest] = unit(rows[rest] * 0.5 + rows[0])
    return rows


def followers(tokenizer, rows, follows, end):
    """The last layer that makes each token's follower the likeliest, and `end` behind a token that has none."""
    last = random(*rows.shape, scale=0.001)
    last[number(tokenizer, end)] += rows[0] * 2
    for token, follower in follows.items():
        last[number(tokenizer, follower)] += rows[number(tokenizer, token)] * 4
    return last


def layers(prefix, count, norms):
    """Layers as in Llama, Qwen 2 (`norms` = False: with biases) and Qwen 3 (True), which hardly touch what passes."""
    weights = {}
    for layer in range(count):
        stem = f"{prefix}layers.{layer}."
        for name, rows in (("q", WIDTH), ("k", GROUPS * HEAD), ("v", GROUPS * HEAD)):
            weights[f"{stem}self_attn.{name}_proj.weight"] = random(rows, WIDTH, scale=0.1)
            if not norms:
                weights[f"{stem}self_attn.{name}_proj.bias"] = random(rows)
        if norms:
            weights[f"{stem}self_attn.q_norm.weight"] = ones(HEAD)
            weights[f"{stem}self_attn.k_norm.weight"] = ones(HEAD)
        weights[f"{stem}self_attn.o_proj.weight"] = random(WIDTH, WIDTH, scale=0.004)
        for name in ("gate", "up", "down"):
            weights[f"{stem}mlp.{name}_proj.weight"] = random(WIDTH, WIDTH, scale=0.004)
        weights[f"{stem}input_layernorm.weight"] = ones(WIDTH)
        weights[f"{stem}post_attention_layernorm.weight"] = ones(WIDTH)
    weights[f"{prefix}norm.weight"] = ones(WIDTH)
    return weights


def text_config(tokenizer):
    return {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    }


# As the templates of Qwen 3 do it: thoughts are opened by the model, and by the template when they are not wanted.
SWITCHED = """{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}{{- message.content }}{%- else %}
{%- for part in message.content %}{%- if part.type == 'text' %}{{- part.text }}
{%- else %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}{%- endif %}{%- endfor %}{%- endif %}
{{- '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"""

# As those of DeepSeek R1 do it: the template opens the thought, always.
OPENED = """{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}
{%- if '</think>' in message.content %}{{- message.content.split('</think>')[-1] }}{%- else %}{{- message.content }}{%- endif %}
{{- '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"""


def seer(directory):
    """Qwen 3 VL: reads images, thinks when it is told to."""
    tokenizer = bytes_and([END_OF_TEXT, "<|im_start|>", IM_END, *EYES], sorted({"<think>", *THOUGHT[1:-1]}))
    write_tokenizer(
        directory,
        tokenizer,
        tokenizer_class="Qwen2TokenizerFast",
        processor_class="Qwen3VLProcessor",
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        chat_template=SWITCHED,
    )
    width, depth, patch, places = 64, 2, 16, 64
    write(
        directory,
        "config.json",
        {
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "model_type": "qwen3_vl",
            "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
            "video_token_id": tokenizer.token_to_id("<|video_pad|>"),
            "vision_start_token_id": tokenizer.token_to_id("<|vision_start|>"),
            "vision_end_token_id": tokenizer.token_to_id("<|vision_end|>"),
            "tie_word_embeddings": False,
            "text_config": {
                **text_config(tokenizer),
                "model_type": "qwen3_vl_text",
                "head_dim": HEAD,
                "dtype": "float32",
                "eos_token_id": tokenizer.token_to_id(IM_END),
                "rope_scaling": {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"},
            },
            "vision_config": {
                "model_type": "qwen3_vl",
                "depth": depth,
                "hidden_size": width,
                "intermediate_size": width,
                "num_heads": 2,
                "hidden_act": "gelu_pytorch_tanh",
                "in_channels": 3,
                "patch_size": patch,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "out_hidden_size": WIDTH,
                "num_position_embeddings": places,
                "deepstack_visual_indexes": [0],
            },
        },
    )
    # Images get at most 64 tokens of 32 x 32 points.
    processor = {
        "size": {"shortest_edge": 32 * 32, "longest_edge": 64 * 32 * 32},
        "patch_size": patch,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "processor_class": "Qwen3VLProcessor",
    }
    write(directory, "preprocessor_config.json", {**processor, "image_processor_type": "Qwen2VLImageProcessorFast"})
    write(directory, "video_preprocessor_config.json", {**processor, "video_processor_type": "Qwen3VLVideoProcessor"})
    follows = chain("\n", *THOUGHT)
    rows = embeddings(tokenizer, follows)
    weights = layers("model.language_model.", 2, norms=True)
    weights["model.language_model.embed_tokens.weight"] = rows
    weights["lm_head.weight"] = followers(tokenizer, rows, follows, IM_END)
    stem = "model.visual."
    weights[stem + "patch_embed.proj.weight"] = random(width, 3, 2, patch, patch)
    weights[stem + "patch_embed.proj.bias"] = random(width)
    weights[stem + "pos_embed.weight"] = random(places, width)

    def linear(name, out, into):
        weights[f"{stem}{name}.weight"], weights[f"{stem}{name}.bias"] = random(out, into, scale=0.1), random(out)

    def norm(name, size):
        weights[f"{stem}{name}.weight"], weights[f"{stem}{name}.bias"] = ones(size), zeros(size)

    for block in range(depth):
        norm(f"blocks.{block}.norm1", width)
        norm(f"blocks.{block}.norm2", width)
        linear(f"blocks.{block}.attn.qkv", 3 * width, width)
        linear(f"blocks.{block}.attn.proj", width, width)
        linear(f"blocks.{block}.mlp.linear_fc1", width, width)
        linear(f"blocks.{block}.mlp.linear_fc2", width, width)
    for merger, size in (("merger", width), ("deepstack_merger_list.0", 4 * width)):
        norm(f"{merger}.norm", size)
        linear(f"{merger}.linear_fc1", 4 * width, 4 * width)
        linear(f"{merger}.linear_fc2", WIDTH, 4 * width)
    return weights


def coder(directory):
    """Qwen 2.5 Coder, with the template of DeepSeek R1: fills gaps, and always thinks."""
    words = sorted({"<think>", "return", " sum", *THOUGHT[1:-1]})
    tokenizer = bytes_and([END_OF_TEXT, "<|im_start|>", IM_END, *FILL_IN], words)
    write_tokenizer(
        directory,
        tokenizer,
        tokenizer_class="Qwen2TokenizerFast",
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        chat_template=OPENED,
    )
    write(
        directory,
        "config.json",
        {
            **text_config(tokenizer),
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "tie_word_embeddings": False,
            "dtype": "float32",
            "eos_token_id": tokenizer.token_to_id(IM_END),
        },
    )
    filling = chain("<|fim_middle|>", "return", " sum", END_OF_TEXT)
    follows = {**chain("\n", *THOUGHT[1:]), **filling}
    rows = embeddings(tokenizer, follows)
    weights = layers("model.", 2, norms=False)
    weights["model.embed_tokens.weight"] = rows
    weights["lm_head.weight"] = followers(tokenizer, rows, follows, IM_END)
    return weights


def hearer(directory):
    """Whisper: writes down what it hears, which is always the same."""
    times = [f"<|{number / 50:.2f}|>" for number in range(1501)]
    languages = [f"<|{language}|>" for language in LANGUAGES]
    marks = ["<|startoftranscript|>", *languages, "<|translate|>", "<|transcribe|>", "<|startoflm|>"]
    marks += ["<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    said = ["<|notimestamps|>", " the", " sky", " is", " blue", END_OF_TEXT]
    timed = ["<|transcribe|>", times[0], " The", " Sea", times[50], END_OF_TEXT]
    words = sorted({*said, *timed} - {*marks, *times, END_OF_TEXT})
    tokenizer = bytes_and([END_OF_TEXT, *marks], words + times)
    start = tokenizer.token_to_id("<|startoftranscript|>")
    end = tokenizer.token_to_id(END_OF_TEXT)
    template = [("<|startoftranscript|>", start), ("<|notimestamps|>", tokenizer.token_to_id("<|notimestamps|>")), (END_OF_TEXT, end)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<|startoftranscript|> <|notimestamps|> $A:0 {END_OF_TEXT}", special_tokens=template
    )
    write_tokenizer(
        directory,
        tokenizer,
        tokenizer_class="WhisperTokenizerFast",
        processor_class="WhisperProcessor",
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
    )
    write(
        directory,
        "preprocessor_config.json",
        {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "processor_class": "WhisperProcessor",
            "feature_size": 80,
            "sampling_rate": 16000,
            "hop_length": 160,
            "n_fft": 400,
            "chunk_length": 30,
            "nb_max_frames": 3000,
            "n_samples": 480000,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": False,
        },
    )
    follows = {"<|startoftranscript|>": "<|en|>", **chain(*said), **chain(*timed)}
    generation = {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": start,
        "is_multilingual": True,
        "lang_to_id": {mark: tokenizer.token_to_id(mark) for mark in languages},
        "task_to_id": {task: tokenizer.token_to_id(f"<|{task}|>") for task in ("translate", "transcribe")},
        "no_timestamps_token_id": tokenizer.token_to_id("<|notimestamps|>"),
    }
    write(directory, "generation_config.json", generation)
    write(
        directory,
        "config.json",
        {
            "architectures": ["WhisperForConditionalGeneration"],
            "model_type": "whisper",
            "is_encoder_decoder": True,
            "vocab_size": tokenizer.get_vocab_size(),
            "d_model": WIDTH,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": HEADS,
            "decoder_attention_heads": HEADS,
            "encoder_ffn_dim": WIDTH,
            "decoder_ffn_dim": WIDTH,
            "num_mel_bins": 80,
            "max_source_positions": 1500,
            "max_target_positions": 448,
            "activation_function": "gelu",
            "dtype": "float32",
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
            "decoder_start_token_id": start,
        },
    )
    rows = embeddings(tokenizer, follows)
    weights = {"model.decoder.embed_tokens.weight": rows}
    weights["model.encoder.conv1.weight"], weights["model.encoder.conv1.bias"] = random(WIDTH, 80, 3), random(WIDTH)
    weights["model.encoder.conv2.weight"], weights["model.encoder.conv2.bias"] = random(WIDTH, WIDTH, 3), random(WIDTH)
    weights["model.encoder.embed_positions.weight"] = random(1500, WIDTH)
    weights["model.decoder.embed_positions.weight"] = random(448, WIDTH, scale=0.0001)

    def linear(name, scale, bias=True):
        weights[name + ".weight"] = random(WIDTH, WIDTH, scale=scale)
        if bias:
            weights[name + ".bias"] = zeros(WIDTH)

    def norm(name):
        weights[name + ".weight"], weights[name + ".bias"] = ones(WIDTH), zeros(WIDTH)

    for part, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "encoder_attn"])):
        for layer in range(2):
            stem = f"model.{part}.layers.{layer}."
            for attention in attentions:
                for name in ("q", "k", "v"):
                    linear(f"{stem}{attention}.{name}_proj", 0.1, bias=name != "k")
                linear(f"{stem}{attention}.out_proj", 0.0002)
                norm(f"{stem}{attention}_layer_norm")
            linear(stem + "fc1", 0.01)
            linear(stem + "fc2", 0.0002)
            norm(stem + "final_layer_norm")
        norm(f"model.{part}.layer_norm")
    # The last layer is the first one here, so the followers have to be made in between: one cell for each token, which
    # lights up for no other one.
    into, bias, out = zeros(WIDTH, WIDTH), zeros(WIDTH), zeros(WIDTH, WIDTH)
    for cell, (token, follower) in enumerate(follows.items()):
        into[cell], bias[cell] = rows[number(tokenizer, token)] * 2, -WIDTH**0.5
        out[:, cell] = rows[number(tokenizer, follower)] * 4
    last = "model.decoder.layers.1."
    weights |= {last + "fc1.weight": into, last + "fc1.bias": bias, last + "fc2.weight": out}
    return weights


def judge(directory):
    """A cross-encoder of BERT's kind: judges pairs of texts."""
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(number) for number in range(33, 127)]
    vocabulary = {text: place for place, text in enumerate(marks + letters + ["##" + letter for letter in letters])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(marks)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    write_tokenizer(directory, tokenizer, tokenizer_class="BertTokenizerFast", pad_token="[PAD]", unk_token="[UNK]",
                    cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    write(
        directory,
        "config.json",
        {
            "architectures": ["BertForSequenceClassification"],
            "model_type": "bert",
            "vocab_size": len(vocabulary),
            "hidden_size": WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": HEADS,
            "intermediate_size": WIDTH,
            "hidden_act": "gelu",
            "max_position_embeddings": 512,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
            "pad_token_id": 0,
            "id2label": {"0": "LABEL_0"},
            "label2id": {"LABEL_0": 0},
            "dtype": "float32",
        },
    )
    weights = {}

    def linear(name, out=WIDTH):
        weights[name + ".weight"], weights[name + ".bias"] = random(out, WIDTH, scale=0.1), random(out)

    def norm(name):
        weights[name + ".weight"], weights[name + ".bias"] = ones(WIDTH), zeros(WIDTH)

    for name, count in (("word", len(vocabulary)), ("position", 512), ("token_type", 2)):
        weights[f"bert.embeddings.{name}_embeddings.weight"] = random(count, WIDTH, scale=0.5)
    norm("bert.embeddings.LayerNorm")
    for layer in range(2):
        stem = f"bert.encoder.layer.{layer}."
        for name in ("query", "key", "value"):
            linear(f"{stem}attention.self.{name}")
        linear(stem + "attention.output.dense")
        norm(stem + "attention.output.LayerNorm")
        linear(stem + "intermediate.dense")
        linear(stem + "output.dense")
        norm(stem + "output.LayerNorm")
    linear("bert.pooler.dense")
    linear("classifier", 1)
    return weights


def main():
    kinds = {"seer": seer, "coder": coder, "hearer": hearer, "judge": judge}
    kind, directory = sys.argv[1], Path(sys.argv[2])
    directory.mkdir(parents=True)
    weights = {name: numpy.ascontiguousarray(value, numpy.float32) for name, value in kinds[kind](directory).items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


main()
