"""Converts one GGUF file into a Hugging Face checkpoint that vLLM loads.

Usage: python import_gguf.py SOURCE.gguf TARGET_DIR

Runs in the engine's Python. Prints one JSON object per line on stdout: `progress`, `warning`, then
one `done` or one `error`; exits 0 or 1. TARGET_DIR must be missing or empty; on failure it is left
as it was found. The caller gives a directory of its own and renames it when this has succeeded.

The file is untrusted: every length and count is checked against the bytes that are there before it
is used, nothing in the file names a path, and no code comes from it.
"""

import errno
import json
import math
import os
import shutil
import signal
import struct
import sys
import traceback
from dataclasses import dataclass

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType, dequantize

SHARD_BYTES = 4_000_000_000  # the size the Hub's tools cut checkpoints at
CHUNK_ELEMENTS = 1 << 24  # weights held in memory at a time: 64 MiB as float32
MAX_KEYS = 1 << 12
MAX_TENSORS = 1 << 16
MAX_LAYERS = 1 << 10
MAX_STRING = 1 << 24
MAX_ARRAY_ELEMENTS = 1 << 22  # over the whole file; the largest vocabularies need a third of it

ARCHITECTURES = ("llama", "mistral", "qwen2")
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9

# Vocabularies whose digits never merge (llama.cpp's pre-tokenizers of that shape); transformers
# does not know their names and would split them as GPT-2 does.
SINGLE_DIGIT_VOCABULARIES = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
# Byte-level vocabularies that begin a text with their first token even where the file does not say so.
BOS_VOCABULARIES = {"llama3", "llama-v3", "llama-bpe", "tekken"}
# Scales that llama.cpp applies and that the target architectures have no place for.
UNSUPPORTED_KEYS = ("attention.scale", "logit_scale", "residual_scale", "embedding_scale", "attention.clamp_kqv")

LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class ImportFailure(Exception):
    """A failure the user can read: `code` for programs, the text says what happened, why, what to do."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def torn(what):
    """The failure for a file that ends early or contradicts itself."""
    return ImportFailure("torn_file", f"The GGUF file is incomplete or damaged: {what}. Download or copy it again.")


def unsupported(what):
    """The failure for a model that is whole but cannot be expressed in the target architectures."""
    return ImportFailure(
        "unsupported_architecture",
        f"This GGUF model cannot be imported: {what}. Pull the model's safetensors version instead.",
    )


@dataclass
class Tensor:
    """One tensor as the file's table describes it."""

    shape: tuple  # slowest-moving dimension first, as PyTorch writes it
    type: GGMLQuantizationType
    offset: int  # from the start of the file
    bytes: int

    @property
    def elements(self):
        """How many weights it holds."""
        return math.prod(self.shape)


class Header:
    """Reads a GGUF file's metadata and tensor table from an open file, trusting nothing."""

    def __init__(self, file):
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self.position = 0
        self.array_elements = 0
        if self.size < 4 or self.take(4) != b"GGUF":
            raise ImportFailure("not_gguf", "This is not a GGUF file: it does not begin with GGUF's mark. Give a .gguf file.")
        version = self.number("<I")
        if version not in (2, 3):
            raise ImportFailure(
                "unsupported_version",
                f"GGUF version {version} is not supported: 2 and 3 (little-endian) are. Convert the model again with a current llama.cpp.",
            )
        tensors, keys = self.number("<Q"), self.number("<Q")
        if tensors > MAX_TENSORS or keys > MAX_KEYS:
            raise torn(f"it claims {tensors} tensors and {keys} metadata keys")
        self.metadata = self.read_metadata(keys)
        self.tensors = self.read_tensors(tensors)

    def take(self, count):
        """The next `count` bytes."""
        if count > self.size - self.position:
            raise torn(f"it ends within its header, at byte {self.size}")
        self.position += count
        taken = self.file.read(count)
        if len(taken) != count:
            raise torn("it became shorter while being read")
        return taken

    def number(self, layout):
        """The next number, laid out as `struct` says."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def string(self):
        """The next string."""
        length = self.number("<Q")
        if length > MAX_STRING:
            raise torn(f"it claims a text of {length} bytes")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise torn("a text in its header is not UTF-8") from None

    def value(self, kind):
        """The next metadata value of the given kind."""
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            raise torn(f"it holds metadata of unknown type {kind}")
        element, count = self.number("<I"), self.number("<Q")
        self.array_elements += count
        if self.array_elements > MAX_ARRAY_ELEMENTS:
            raise torn(f"it claims lists of {self.array_elements} entries")
        if element == STRING:
            return [self.string() for _ in range(count)]
        if element not in SCALARS:
            raise torn(f"it holds a list of unknown type {element}")
        layout = SCALARS[element][1]
        return list(struct.unpack(f"<{count}{layout}", self.take(count * struct.calcsize(f"<{layout}"))))

    def read_metadata(self, count):
        """All metadata, by key."""
        metadata = {}
        for _ in range(count):
            key = self.string()
            if key in metadata:
                raise torn(f"the metadata key {key!r} occurs twice")
            metadata[key] = self.value(self.number("<I"))
        return metadata

    def read_tensors(self, count):
        """The tensor table, by name, with every tensor's bytes known to lie inside the file."""
        rows = {}
        for _ in range(count):
            name, dimensions = self.string(), self.number("<I")
            if name in rows or not 1 <= dimensions <= 4:
                raise torn(f"the tensor {name!r} is listed twice or has {dimensions} dimensions")
            shape = struct.unpack(f"<{dimensions}Q", self.take(8 * dimensions))[::-1]
            rows[name] = (shape, self.number("<I"), self.number("<Q"))
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise torn("its alignment is not a power of two")
        start = -(-self.position // alignment) * alignment
        return {name: self.tensor(name, shape, kind, start + offset) for name, (shape, kind, offset) in rows.items()}

    def tensor(self, name, shape, kind, offset):
        """A checked row of the tensor table."""
        try:
            kind = GGMLQuantizationType(kind)
            block, size = GGML_QUANT_SIZES[kind]
            dequantize(np.zeros((1, size), np.uint8), kind)
        except (ValueError, KeyError, NotImplementedError):
            raise ImportFailure(
                "unsupported_quantization",
                f"The tensor {name!r} has a number format that cannot be read ({getattr(kind, 'name', kind)}). Use another quantization of the model.",
            ) from None
        if math.prod(shape) == 0 or shape[-1] % block:
            raise torn(f"the tensor {name!r} has the shape {list(shape)}, which does not fit {kind.name}")
        tensor = Tensor(shape, kind, offset, math.prod(shape) // block * size)
        if offset + tensor.bytes > self.size:
            raise torn(f"it has {self.size} bytes and the tensor {name!r} ends at {offset + tensor.bytes}")
        return tensor


class Model:
    """What the metadata says about the model, and the table of tensors the checkpoint will hold."""

    def __init__(self, header):
        self.metadata, self.tensors = header.metadata, header.tensors
        self.architecture = self.text("general.architecture")
        if self.architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise unsupported(f"its architecture is {self.architecture!r}, and GGUF import knows {known}")
        if self.get("expert_count", 0):
            raise unsupported("it is a mixture of experts")
        for key in UNSUPPORTED_KEYS:
            if self.get(key) is not None:
                raise unsupported(f"it uses {self.architecture}.{key}")
        self.layers = self.count("block_count", most=MAX_LAYERS)
        self.hidden = self.count("embedding_length")
        self.inner = self.count("feed_forward_length")
        self.context = self.count("context_length")
        self.heads = self.count("attention.head_count")
        self.key_heads = self.count("attention.head_count_kv", default=self.heads)
        self.head_dim = self.count("attention.key_length", default=self.get("rope.dimension_count") or self.hidden // self.heads)
        self.epsilon = self.real("attention.layer_norm_rms_epsilon", 1e-5)
        self.theta = self.real("rope.freq_base", 10000.0)
        if self.head_dim % 2 or self.heads % self.key_heads:
            raise torn("its attention heads do not divide evenly")
        if self.count("attention.value_length", default=self.head_dim) != self.head_dim:
            raise unsupported("its keys and values differ in size")
        if self.count("rope.dimension_count", default=self.head_dim) != self.head_dim:
            raise unsupported("it rotates only a part of each head")
        self.tied = "output.weight" not in self.tensors
        self.tokens = self.metadata.get("tokenizer.ggml.tokens")
        if not isinstance(self.tokens, list) or not self.tokens or not isinstance(self.tokens[0], str):
            raise ImportFailure("missing_tokenizer", "The GGUF file carries no vocabulary, so text cannot become tokens. Use a complete GGUF of the model.")
        embedding = self.tensors.get("token_embd.weight")
        if embedding is None:
            raise self.missing("token_embd.weight")
        self.vocabulary = embedding.shape[0]
        if self.vocabulary < len(self.tokens):
            raise torn(f"it has {len(self.tokens)} tokens and embeddings for {self.vocabulary}")
        self.rope = self.rope_parameters()

    @staticmethod
    def missing(name):
        """The failure for a tensor that should be there."""
        return ImportFailure("missing_tensor", f"The GGUF file lacks the tensor {name!r}: it is a part of a split model, an adapter, or damaged. Give the whole model in one file.")

    def get(self, key, default=None):
        """The architecture's own metadata under `key`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def text(self, key):
        """A metadata text, or None."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) and value else None

    def count(self, key, default=None, most=1 << 31):
        """A whole number of at least 1 from the architecture's metadata."""
        value = self.get(key, default)
        if isinstance(value, list):
            raise unsupported(f"{self.architecture}.{key} differs from layer to layer")
        if type(value) is not int or not 1 <= value <= most:
            raise torn(f"{self.architecture}.{key} is {'missing' if value is None else value}")
        return value

    def real(self, key, default):
        """A positive, finite number from the architecture's metadata."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise torn(f"{self.architecture}.{key} is {value}")
        # Stored as float32: the shortest decimal that means the same number is what was meant.
        return float(str(np.float32(value)))

    def token_id(self, name):
        """A special token's id, or None where the file names none."""
        value = self.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if value is None or (type(value) is int and 0 <= value < len(self.tokens)):
            return value
        raise torn(f"its {name} token is {value}, outside the vocabulary")

    def rope_parameters(self):
        """The rotary embedding in transformers' words."""
        rope = {"rope_type": "default", "rope_theta": self.theta}
        kind = self.get("rope.scaling.type", "linear" if self.get("rope.scale_linear") else "none")
        if kind in ("linear", "yarn"):
            rope |= {"rope_type": kind, "factor": self.real("rope.scaling.factor", self.get("rope.scale_linear", 1.0))}
            if kind == "yarn":
                rope["original_max_position_embeddings"] = self.count("rope.scaling.original_context_length")
                for theirs, ours in (("attn_factor", "attention_factor"), ("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")):
                    if self.get(f"rope.scaling.{theirs}") is not None:
                        rope[ours] = self.real(f"rope.scaling.{theirs}", None)
        elif kind != "none":
            raise unsupported(f"its rope scaling is {kind!r}")
        if "rope_freqs.weight" in self.tensors:
            if kind != "none":
                raise unsupported(f"it combines {kind} rope scaling with frequency factors")
            rope |= {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
        return rope

    def llama3_factors(self, factor):
        """The frequency factors Llama 3.1 and later have for `factor`, as llama.cpp computes them."""
        wavelength = 2 * np.pi * self.theta ** (np.arange(0, self.head_dim, 2) / self.head_dim)
        smooth = np.clip((self.rope["original_max_position_embeddings"] / wavelength - 1.0) / 3.0, 0, 1)
        return 1 / ((1 - smooth) / factor + smooth)

    def settle_rope_factors(self, factors):
        """Turns the file's frequency factors into the one figure they were computed from."""
        self.rope["factor"] = float(factors.max())
        if factors.shape != (self.head_dim // 2,) or not np.allclose(factors, self.llama3_factors(self.rope["factor"]), rtol=1e-3):
            raise unsupported("its rope frequency factors are not Llama 3's")

    def layout(self):
        """The checkpoint's tensors in order: (name, tensor, shape, heads to un-permute or None)."""
        rows = [("model.embed_tokens.weight", "token_embd.weight", (self.vocabulary, self.hidden), None)]
        query, key = self.heads * self.head_dim, self.key_heads * self.head_dim
        shapes = {
            "attn_norm": (self.hidden,),
            "attn_q": (query, self.hidden),
            "attn_k": (key, self.hidden),
            "attn_v": (key, self.hidden),
            "attn_output": (self.hidden, query),
            "ffn_norm": (self.hidden,),
            "ffn_gate": (self.inner, self.hidden),
            "ffn_up": (self.inner, self.hidden),
            "ffn_down": (self.hidden, self.inner),
        }
        # llama.cpp interleaves the rotary pairs of llama's queries and keys; qwen2's it leaves alone.
        permuted = () if self.architecture == "qwen2" else ("attn_q", "attn_k")
        for layer in range(self.layers):
            for part, target in LAYER_TENSORS.items():
                source, name = f"blk.{layer}.{part}", f"model.layers.{layer}.{target}"
                rows.append((f"{name}.weight", f"{source}.weight", shapes[part], part in permuted))
                if part in self.biased():
                    rows.append((f"{name}.bias", f"{source}.bias", shapes[part][:1], part in permuted))
        rows.append(("model.norm.weight", "output_norm.weight", (self.hidden,), None))
        if not self.tied:
            rows.append(("lm_head.weight", "output.weight", (self.vocabulary, self.hidden), None))
        self.check_layout(rows)
        return [(name, self.tensors[source], shape, permute) for name, source, shape, permute in rows]

    def biased(self):
        """The parts of a layer that carry a bias."""
        if self.architecture == "qwen2":
            return ("attn_q", "attn_k", "attn_v")
        return ("attn_q", "attn_k", "attn_v", "attn_output") if "blk.0.attn_q.bias" in self.tensors else ()

    def check_layout(self, rows):
        """Refuses a file that lacks a tensor, has one too many, or has one of the wrong shape."""
        for _, source, shape, _ in rows:
            tensor = self.tensors.get(source)
            if tensor is None:
                raise self.missing(source)
            if tensor.shape != shape:
                raise torn(f"the tensor {source!r} has the shape {list(tensor.shape)} where the metadata asks for {list(shape)}")
            if len(shape) == 1 and GGML_QUANT_SIZES[tensor.type][0] != 1:
                raise torn(f"the tensor {source!r} is quantized, which vectors never are")
        strangers = self.tensors.keys() - {source for _, source, _, _ in rows} - {"rope_freqs.weight"}
        if strangers:
            raise unsupported(f"it has tensors that {self.architecture} models do not have ({sorted(strangers)[0]!r} and {len(strangers) - 1} more)")

    def config(self):
        """The checkpoint's config.json."""
        window = self.get("attention.sliding_window")
        config = {
            "dtype": "bfloat16",
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "head_dim": self.head_dim,
            "rms_norm_eps": self.epsilon,
            "rope_parameters": self.rope,
            "max_position_embeddings": self.context,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "bos_token_id": self.token_id("bos"),
            "eos_token_id": self.token_id("eos"),
        }
        if self.architecture == "qwen2":
            if window is not None:
                raise unsupported("it is a qwen2 model with a sliding window")
            return {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": False} | config
        if self.architecture == "mistral" or window is not None:
            if self.biased():
                raise unsupported("it is a mistral model with attention biases")
            window = None if window is None else self.count("attention.sliding_window")
            return {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": window} | config
        return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": bool(self.biased()), "mlp_bias": False} | config

    def quantization(self):
        """The file's number format as people call it, for example Q4_K_M."""
        try:
            return LlamaFileType(self.metadata.get("general.file_type")).name.removeprefix("MOSTLY_").removeprefix("ALL_")
        except ValueError:
            sizes = {}
            for tensor in self.tensors.values():
                sizes[tensor.type.name] = sizes.get(tensor.type.name, 0) + tensor.bytes
            return max(sizes, key=sizes.get)


def read_weights(file, tensor, pair_rows=None):
    """Yields a tensor's weights as float32 rows, a chunk at a time.

    `pair_rows` is the number of rows per attention head where llama.cpp has interleaved the two
    halves of each head; the rows come out in the order Hugging Face has them.
    """
    rows, columns = (tensor.shape[0], tensor.elements // tensor.shape[0])
    row_bytes = tensor.bytes // rows
    step = max(1, CHUNK_ELEMENTS // columns)
    if pair_rows:
        step = max(1, step // pair_rows) * pair_rows
    file.seek(tensor.offset)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        taken = file.read(count * row_bytes)
        if len(taken) != count * row_bytes:
            raise torn("it became shorter while being read")
        weights = dequantize(np.frombuffer(taken, np.uint8).reshape(count, row_bytes), tensor.type).reshape(count, columns)
        if not np.isfinite(weights).all():
            raise torn("it holds weights that are not numbers")
        if pair_rows:
            weights = weights.reshape(-1, pair_rows // 2, 2, columns).swapaxes(1, 2)
        yield weights


def to_bfloat16(weights):
    """The bytes of finite float32 weights rounded to the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(weights, np.float32).view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2").tobytes()


def shards(layout):
    """The layout cut into lists that each stay within SHARD_BYTES (a larger tensor stands alone)."""
    cut, size = [[]], 0
    for row in layout:
        bytes_out = 2 * row[1].elements
        if cut[-1] and size + bytes_out > SHARD_BYTES:
            cut.append([])
            size = 0
        cut[-1].append(row)
        size += bytes_out
    return cut


def write_shard(path, rows, source, model, progress):
    """Writes one safetensors file. The header can come first, as all sizes are known."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor, shape, _ in rows:
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * tensor.elements]}
        end += 2 * tensor.elements
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(encoded)) + encoded)
        for _, tensor, _, permute in rows:
            for weights in read_weights(source, tensor, model.head_dim if permute else None):
                out.write(to_bfloat16(weights))
            progress()
        out.flush()
        os.fsync(out.fileno())


def write_weights(target, source, model, layout):
    """Writes all weights, in one file or in shards with an index."""
    cut, done = shards(layout), 0

    def progress():
        """Tells that one more tensor is written."""
        nonlocal done
        done += 1
        tell("progress", phase="tensors", done=done, total=len(layout))

    if len(cut) == 1:
        return write_shard(os.path.join(target, "model.safetensors"), cut[0], source, model, progress)
    places = {}
    for number, rows in enumerate(cut, 1):
        name = f"model-{number:05}-of-{len(cut):05}.safetensors"
        write_shard(os.path.join(target, name), rows, source, model, progress)
        places |= {row[0]: name for row in rows}
    total = sum(2 * row[1].elements for row in layout)
    write_json(target, "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def write_json(target, name, content):
    """Writes one JSON file of the checkpoint."""
    with open(os.path.join(target, name), "w", encoding="utf-8") as out:
        json.dump(content, out, indent=2, ensure_ascii=False)
        out.write("\n")


def write_tokenizer(target, source, model):
    """Writes the tokenizer and its chat template, as transformers reads them from the file."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1")
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    kind, split = model.text("tokenizer.ggml.model"), model.text("tokenizer.ggml.pre")
    metadata = model.metadata
    # The file alone in a directory of its own: nothing beside it can change what is loaded.
    alone = os.path.join(target, "source")
    os.mkdir(alone)
    os.symlink(os.path.realpath(source), os.path.join(alone, "model.gguf"))
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            alone,
            gguf_file="model.gguf",
            trust_remote_code=False,
            add_bos_token=bool(metadata.get("tokenizer.ggml.add_bos_token", kind == "llama" or split in BOS_VOCABULARIES)),
            add_eos_token=bool(metadata.get("tokenizer.ggml.add_eos_token", False)),
        )
        if split in SINGLE_DIGIT_VOCABULARIES:
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            )
        elif kind == "gpt2" and split not in (None, "default", "gpt-2", *GGUF_PRE_TOKENIZER_SPLITS):
            tell("warning", message=f"The vocabulary's pre-tokenizer {split!r} is not known; text is split as GPT-2 does, which may cost quality.")
        tokenizer.save_pretrained(target)
    except (MemoryError, OSError, ImportFailure):
        raise
    except Exception as error:
        raise ImportFailure(
            "unsupported_tokenizer",
            f"The GGUF file's tokenizer ({kind}, {split}) cannot be converted: {type(error).__name__}: {error}. Pull the model's safetensors version instead.",
        ) from error
    finally:
        shutil.rmtree(alone)


def convert(source, target):
    """Converts the file and returns the facts for the `done` line."""
    try:
        file = open(source, "rb")
    except OSError as error:
        raise ImportFailure("unreadable", f"The GGUF file cannot be opened: {error.strerror}. Check the path and its permissions.") from None
    with file:
        model = Model(Header(file))
        if "rope_freqs.weight" in model.tensors:
            factors = model.tensors["rope_freqs.weight"]
            if factors.elements > 1 << 16:
                raise torn("its rope frequency factors are too many")
            model.settle_rope_factors(np.concatenate(list(read_weights(file, factors))).reshape(-1))
        config, layout = model.config(), model.layout()
        parameters = sum(row[1].elements for row in layout)
        free = shutil.disk_usage(target).free
        if 2 * parameters > free:
            raise ImportFailure("disk_full", f"The checkpoint needs {2 * parameters:,} bytes and the disk has {free:,} free. Free some space, or use a smaller model.")
        # The tokenizer first: where it cannot be converted, nobody has waited for the weights.
        tell("progress", phase="tokenizer", done=0, total=1)
        write_tokenizer(target, source, model)
        tell("progress", phase="tokenizer", done=1, total=1)
        write_json(target, "config.json", config)
        ends = sorted({end for end in (model.token_id("eos"), model.token_id("eot")) if end is not None})
        if len(ends) > 1:
            write_json(target, "generation_config.json", {"bos_token_id": model.token_id("bos"), "eos_token_id": ends})
        write_weights(target, file, model, layout)
    return {
        "architecture": model.architecture,
        "parameters": parameters,
        "quantization": model.quantization(),
        "license": model.text("general.license"),
        "context_length": model.context,
        "embedding_length": model.hidden,
        "name": model.text("general.name"),
    }


def tell(event, **facts):
    """Prints one event as a JSON line."""
    print(json.dumps({"event": event, **facts}), file=EVENTS, flush=True)


def explain(error):
    """Any exception as an ImportFailure."""
    if isinstance(error, ImportFailure):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ImportFailure("disk_full", "The disk became full while the checkpoint was written. Free some space and import again.")
    if isinstance(error, OSError):
        return ImportFailure("io", f"Reading or writing failed: {error.strerror or error}. Check the disk and the directory's permissions.")
    if isinstance(error, MemoryError):
        return ImportFailure("out_of_memory", "There is not enough memory to convert this model. Free some memory, or use a smaller model.")
    traceback.print_exception(error)
    return ImportFailure("internal", f"The import failed unexpectedly ({type(error).__name__}: {error}). Please report this with the model's name.")


def interrupted(*_):
    """Turns SIGTERM and SIGINT into a failure, so that what was written is removed."""
    raise ImportFailure("interrupted", "The import was stopped before it was complete. Start it again.")


def main(arguments):
    """Runs the import and returns the exit status."""
    if len(arguments) != 2:
        tell("error", code="usage", message="usage: import_gguf.py SOURCE.gguf TARGET_DIR")
        return 1
    source, target = arguments
    existed = os.path.isdir(target)
    if os.path.lexists(target) and not (existed and not os.listdir(target)):
        tell("error", code="target_exists", message="The target directory exists and is not empty. Give a new one.")
        return 1
    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGINT, interrupted)
    try:
        os.makedirs(target, mode=0o755, exist_ok=True)
        tell("done", **convert(source, target))
        return 0
    except Exception as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        failure = explain(error)
        shutil.rmtree(target, ignore_errors=True)
        if existed:
            os.makedirs(target, exist_ok=True)
        tell("error", code=failure.code, message=str(failure))
        return 1


if __name__ == "__main__":
    # Libraries may print on stdout: events keep the real one, everything else goes to stderr.
    EVENTS = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.exit(main(sys.argv[1:]))
