"""Repositories as they are published, with next to no weights."""

import json
import random
import struct

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "max_position_embeddings": 2048}


def safetensors(shapes, size=None, dtype="BF16", seed=0):
    """A whole safetensors file with these tensors; `size` adds one more tensor to bring it to about so many bytes."""
    width = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "U8": 1, "F8_E4M3": 1}
    header, offset = {}, 0
    shapes = dict(shapes)
    if size is not None:
        shapes["filling.weight"] = ([max(size // 2, 1)], dtype)
    for name, shape in shapes.items():
        shape, kind = shape if isinstance(shape, tuple) else (shape, dtype)
        count = width[kind]
        for side in shape:
            count *= side
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + count]}
        offset += count
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + random.Random(seed).randbytes(offset)


def plain(size=40_000):
    """A repository with one weight file, and everything that is not to be downloaded beside it."""
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "generation_config.json": b'{"temperature": 0.5}',
        "tokenizer.json": b'{"version": "1.0"}',
        "tokenizer_config.json": b'{"chat_template": "{{ messages }}"}',
        "model.safetensors": safetensors({"embed.weight": [10, 20]}, size),
        "LICENSE": b"You may.\n",
        "README.md": b"# A model\n",
        ".gitattributes": b"*",
        "pytorch_model.bin": b"pickle",
        "onnx/model.onnx": b"onnx",
        "original/consolidated.00.pth": b"pth",
        "model.Q4_K_M.gguf": b"GGUF",
    }


def sharded(size=400_000, shards=3):
    """A repository with several weight files, an index, and the same weights in Mistral's format."""
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    files = {name: safetensors({f"layer{at}.weight": [4, 4]}, size // shards, seed=at) for at, name in enumerate(names)}
    index = {"metadata": {}, "weight_map": {f"layer{at}.weight": name for at, name in enumerate(names)}}
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": b'{"version": "1.0"}',
        "model.safetensors.index.json": json.dumps(index).encode(),
        "consolidated.safetensors": safetensors({"all.weight": [4, 4]}),
        "params.json": b"{}",
        **files,
    }
