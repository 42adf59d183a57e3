"""Tests of the GGUF import: tiny random models, written as GGUF, imported, and compared by logits.

Run: .venv/bin/python -m unittest discover -s tests/import
"""

import importlib.util
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, quantize
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MistralConfig, Qwen2Config
from transformers.utils import logging

logging.disable_progress_bar()
logging.set_verbosity_error()

SCRIPT = Path(__file__).resolve().parents[2] / "src/model/import_gguf.py"
SPECIAL = ["<unk>", "<s>", "</s>"]
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def load_script():
    """The import as a module, its events kept in `module.EVENTS`."""
    spec = importlib.util.spec_from_file_location("import_gguf", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["import_gguf"] = module
    spec.loader.exec_module(module)
    module.EVENTS = io.StringIO()
    return module


import_gguf = load_script()


def byte_vocabulary():
    """A byte-level vocabulary: three special tokens, the 256 bytes, and one merge of two."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return SPECIAL + list(bytes_to_unicode().values()) + ["he"]


def reference(config):
    """A random model of the given configuration, its weights rounded to bfloat16 as the import rounds them."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            # Norms and biases start constant; random ones show when they are mixed up.
            weights.copy_((torch.randn_like(weights) * 0.1 + ("norm" in name)).bfloat16().float())
    return model


def interleave(weights, heads):
    """llama.cpp's permutation of queries and keys, as its converter applies it."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weights.shape)


class Sample:
    """A GGUF file of a reference model, with knobs for what makes it wrong."""

    def __init__(self, architecture, config, quantization=None, metadata=None, skip=(), extra=None):
        self.architecture, self.config = architecture, config
        self.quantization, self.metadata = quantization, metadata or {}
        self.skip, self.extra = skip, extra or {}
        self.model = reference(config)

    def write(self, path):
        """Writes the GGUF file."""
        config, writer = self.config, GGUFWriter(str(path), self.architecture)
        writer.add_name("Tiny Model")
        writer.add_license("apache-2.0")
        writer.add_file_type(LlamaFileType.ALL_F32)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        vocabulary = byte_vocabulary()
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(vocabulary)
        writer.add_token_types([3] * len(SPECIAL) + [1] * 257)
        writer.add_token_merges(["h e"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_chat_template(TEMPLATE)
        for key, (add, value) in self.metadata.items():
            getattr(writer, f"add_{add}")(f"{self.architecture}.{key}", value)
        for name, weights in self.tensors():
            quantized = self.quantization if weights.ndim == 2 else None
            writer.add_tensor(name, quantize(weights, quantized) if quantized else weights, raw_dtype=quantized)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def tensors(self):
        """The model's weights under llama.cpp's names."""
        names = {target: source for source, target in import_gguf.LAYER_TENSORS.items()}
        heads = {"attn_q": self.config.num_attention_heads, "attn_k": self.config.num_key_value_heads}
        for name, weights in self.model.named_parameters():
            weights = weights.detach().numpy()
            parts = name.split(".")
            if parts[1] == "layers":
                kind = names[".".join(parts[3:-1])]
                if kind in heads and self.architecture != "qwen2":
                    weights = interleave(weights, heads[kind])
                name = f"blk.{parts[2]}.{kind}.{parts[-1]}"
            else:
                name = {"embed_tokens": "token_embd", "norm": "output_norm", "weight": "output"}[parts[1]] + ".weight"
            if name not in self.skip:
                yield name, np.ascontiguousarray(weights)
        yield from self.extra.items()


def llama(**changes):
    """A tiny llama configuration."""
    return LlamaConfig(**{**SIZES, "vocab_size": 260, "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0}, **changes})


class ImportTest(unittest.TestCase):
    """What every test shares: a directory, and the import run within this process."""

    def setUp(self):
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.place = Path(place.name)
        self.target = self.place / "out"
        import_gguf.EVENTS = io.StringIO()

    def run_import(self, source):
        """Runs the import; returns its exit status and its last event."""
        with mock.patch("signal.signal"):
            status = import_gguf.main([str(source), str(self.target)])
        self.events = [json.loads(line) for line in import_gguf.EVENTS.getvalue().splitlines()]
        return status, self.events[-1]

    def assert_same_logits(self, sample, tolerance=1e-4):
        """Imports the sample and compares its logits with the reference model's."""
        status, done = self.run_import(sample.write(self.place / "model.gguf"))
        self.assertEqual((status, done["event"]), (0, "done"), done)
        imported, report = AutoModelForCausalLM.from_pretrained(self.target, dtype=torch.float32, output_loading_info=True)
        self.assertFalse(report["missing_keys"] or report["unexpected_keys"], report)
        tokens = torch.randint(3, 260, (1, 40), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected, got = sample.model(tokens).logits, imported.eval()(tokens).logits
        self.assertLess((expected - got).abs().max().item(), tolerance)
        return done

    def assert_refused(self, source, code):
        """Imports a bad file: the code is as given, the text is for people, and nothing stays behind."""
        status, error = self.run_import(source)
        self.assertEqual((status, error["event"], error.get("code")), (1, "error", code), error)
        self.assertNotIn("Traceback", error["message"])
        self.assertFalse(self.target.exists())
        return error


class GoodFiles(ImportTest):
    """Files that import, compared with the models they were made from."""

    def test_llama_with_its_own_output(self):
        done = self.assert_same_logits(Sample("llama", llama(tie_word_embeddings=False)))
        self.assertEqual(done["quantization"], "F32")
        self.assertEqual((done["architecture"], done["license"], done["name"]), ("llama", "apache-2.0", "Tiny Model"))
        self.assertEqual((done["context_length"], done["embedding_length"]), (128, 64))
        progress = [event for event in self.events if event.get("phase") == "tensors"]
        self.assertEqual(progress[-1]["done"], progress[-1]["total"])

    def test_llama_with_tied_embeddings(self):
        sample = Sample("llama", llama(tie_word_embeddings=True))
        done = self.assert_same_logits(sample)
        self.assertEqual(done["parameters"], sum(weights.numel() for weights in sample.model.parameters()))

    def test_llama_with_biases(self):
        self.assert_same_logits(Sample("llama", llama(attention_bias=True)))

    def test_llama_3_rope_factors(self):
        rope = {"rope_type": "llama3", "rope_theta": 50000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
        config = llama(rope_parameters=rope)
        sample = Sample("llama", config)
        plain = 1 / 50000.0 ** (np.arange(0, 16, 2) / 16)
        factors = plain / sample.model.model.rotary_emb.inv_freq.numpy()
        sample.extra = {"rope_freqs.weight": factors.astype(np.float32)}
        self.assert_same_logits(sample)

    def test_linear_rope_scaling(self):
        config = llama(rope_parameters={"rope_type": "linear", "rope_theta": 50000.0, "factor": 4.0})
        self.assert_same_logits(Sample("llama", config, metadata={"rope.scaling.type": ("string", "linear"), "rope.scaling.factor": ("float32", 4.0)}))

    def test_head_dim_of_its_own(self):
        self.assert_same_logits(Sample("llama", llama(head_dim=32), metadata={"attention.key_length": ("uint32", 32), "attention.value_length": ("uint32", 32)}))

    def test_qwen2_with_biases(self):
        config = Qwen2Config(**SIZES, vocab_size=260, rope_parameters={"rope_type": "default", "rope_theta": 1e6}, tie_word_embeddings=False)
        done = self.assert_same_logits(Sample("qwen2", config))
        self.assertEqual(done["architecture"], "qwen2")

    def test_mistral_with_a_sliding_window(self):
        config = MistralConfig(**SIZES, vocab_size=260, sliding_window=8, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, tie_word_embeddings=False)
        for architecture in ("mistral", "llama"):
            with self.subTest(architecture):
                self.target = self.place / architecture
                self.assert_same_logits(Sample(architecture, config, metadata={"attention.sliding_window": ("uint32", 8)}))
                self.assertEqual(json.loads((self.target / "config.json").read_text())["architectures"], ["MistralForCausalLM"])

    def test_quantized_weights(self):
        for kind in (GGMLQuantizationType.Q8_0, GGMLQuantizationType.F16, GGMLQuantizationType.BF16):
            with self.subTest(kind.name):
                self.target = self.place / kind.name
                self.assert_same_logits(Sample("llama", llama(), quantization=kind), tolerance=0.2 if kind == GGMLQuantizationType.Q8_0 else 1e-2)

    def test_small_chunks_and_shards_change_nothing(self):
        with mock.patch.multiple(import_gguf, CHUNK_ELEMENTS=1000, SHARD_BYTES=40_000):
            self.assert_same_logits(Sample("llama", llama(tie_word_embeddings=False)))
        index = json.loads((self.target / "model.safetensors.index.json").read_text())
        self.assertGreater(len(set(index["weight_map"].values())), 2)

    def test_tokenizer_and_template(self):
        self.run_import(Sample("llama", llama()).write(self.place / "model.gguf"))
        tokenizer = AutoTokenizer.from_pretrained(self.target)
        self.assertEqual(tokenizer.decode(tokenizer("héllo 42").input_ids), "héllo 42")
        self.assertEqual(tokenizer("</s>").input_ids, [2])
        self.assertEqual(tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False), "user: hi\n")

    def test_as_a_program(self):
        source = Sample("llama", llama()).write(self.place / "model.gguf")
        run = subprocess.run([sys.executable, SCRIPT, source, self.target], capture_output=True, text=True, check=False)
        events = [json.loads(line) for line in run.stdout.splitlines()]
        self.assertEqual((run.returncode, events[-1]["event"]), (0, "done"), run.stderr)
        self.assertEqual(
            sorted(os.listdir(self.target)),
            ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
        )


class BadFiles(ImportTest):
    """Files that do not import: each is refused in words, and nothing is left behind."""

    def good_file(self):
        """The bytes of a file that imports."""
        return Sample("llama", llama()).write(self.place / "good.gguf").read_bytes()

    def changed(self, content):
        """A file of the given bytes."""
        path = self.place / "changed.gguf"
        path.write_bytes(content)
        return path

    def test_not_gguf(self):
        for content in (b"", b"GG", b"PK\x03\x04" + bytes(100), b"\x00" * 64):
            self.assert_refused(self.changed(content), "not_gguf")

    def test_missing_file(self):
        self.assert_refused(self.place / "absent.gguf", "unreadable")

    def test_truncated_anywhere(self):
        good = self.good_file()
        with mock.patch.object(import_gguf, "write_tokenizer"):
            for length in sorted({*range(4, 400, 7), *range(400, len(good), len(good) // 150), len(good) - 1}):
                self.assert_refused(self.changed(good[:length]), "torn_file")

    def test_any_byte_of_the_header_wrong(self):
        good = self.good_file()
        random = np.random.default_rng(3)
        with mock.patch.object(import_gguf, "write_tokenizer"):
            for position in random.integers(4, 9000, 400):
                content = bytearray(good)
                content[position] ^= int(random.integers(1, 256))
                status, event = self.run_import(self.changed(bytes(content)))
                self.assertNotEqual(event.get("code"), "internal", (position, event))
                self.assertEqual(self.target.exists(), status == 0)
                if status == 0:
                    import_gguf.shutil.rmtree(self.target)

    def test_absurd_counts(self):
        good = self.good_file()
        for position in (8, 16):
            for count in (1 << 20, 1 << 63, (1 << 64) - 1):
                self.assert_refused(self.changed(good[:position] + struct.pack("<Q", count) + good[position + 8 :]), "torn_file")
        tokens = good.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 8
        for count in (1 << 40, (1 << 64) - 1):
            self.assert_refused(self.changed(good[:tokens] + struct.pack("<Q", count) + good[tokens + 8 :]), "torn_file")

    def test_other_versions(self):
        good = self.good_file()
        for version in (1, 4, 0x03000000):
            self.assert_refused(self.changed(good[:4] + struct.pack("<I", version) + good[8:]), "unsupported_version")

    def test_other_architecture(self):
        writer = GGUFWriter(str(self.place / "gpt2.gguf"), "gpt2")
        writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        error = self.assert_refused(self.place / "gpt2.gguf", "unsupported_architecture")
        self.assertIn("'gpt2'", error["message"])

    def test_missing_and_foreign_tensors(self):
        name = "blk.1.ffn_up.weight"
        error = self.assert_refused(Sample("llama", llama(), skip=(name,)).write(self.place / "a.gguf"), "missing_tensor")
        self.assertIn(name, error["message"])
        extra = {"../../etc/passwd": np.zeros((2, 2), np.float32)}
        self.assert_refused(Sample("llama", llama(), extra=extra).write(self.place / "b.gguf"), "unsupported_architecture")
        experts = {"expert_count": ("uint32", 8)}
        self.assert_refused(Sample("llama", llama(), metadata=experts).write(self.place / "c.gguf"), "unsupported_architecture")

    def test_shapes_that_do_not_fit(self):
        wrong = {"blk.0.attn_v.weight": np.zeros((64, 32), np.float32)}
        self.assert_refused(Sample("llama", llama(), skip=tuple(wrong), extra=wrong).write(self.place / "a.gguf"), "torn_file")

    def test_weights_that_are_not_numbers(self):
        wrong = {"output_norm.weight": np.full(64, np.nan, np.float32)}
        self.assert_refused(Sample("llama", llama(), skip=tuple(wrong), extra=wrong).write(self.place / "a.gguf"), "torn_file")

    def test_disk_full(self):
        source = Sample("llama", llama()).write(self.place / "a.gguf")
        with mock.patch.object(import_gguf.shutil, "disk_usage", return_value=mock.Mock(free=1000)):
            self.assert_refused(source, "disk_full")
        with mock.patch.object(import_gguf.os, "fsync", side_effect=OSError(28, "No space left on device")):
            self.assert_refused(source, "disk_full")

    def test_a_target_in_use_is_left_alone(self):
        self.target.mkdir()
        (self.target / "kept").write_text("kept")
        status, error = self.run_import(self.place / "absent.gguf")
        self.assertEqual((status, error["code"]), (1, "target_exists"))
        self.assertEqual((self.target / "kept").read_text(), "kept")

    def test_stopped_half_way(self):
        source = Sample("llama", llama()).write(self.place / "a.gguf")
        with mock.patch.object(import_gguf, "write_weights", side_effect=import_gguf.interrupted):
            self.assert_refused(source, "interrupted")


if __name__ == "__main__":
    unittest.main()
