"""A GGUF file with the shape of Qwen2 0.5 B and random weights, for honest speed figures.

Speed depends on shapes and types, not on what the weights are. The real file cannot be shipped.
Sizes: Qwen2 technical report (arXiv 2407.10671), table 1.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from benchmarks.gguf_files import finish
from learning.shipped_models.export import quantise


@dataclass(frozen=True, slots=True)
class QwenShape:
    """The sizes of a Qwen2 model."""

    layers: int = 24
    width: int = 896
    heads: int = 14
    key_value_heads: int = 2
    feed_forward: int = 4864
    vocabulary: int = 151_936
    context: int = 32_768
    pre_tokenizer: str = "qwen2"

    @property
    def key_value_width(self) -> int:
        return self.width // self.heads * self.key_value_heads


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _byte_texts() -> list[str]:
    """The 256 printable stand-ins for bytes of GPT-2's tokenizer."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    stand_in = {byte: chr(byte) for byte in printable}
    stand_in |= {byte: chr(256 + i) for i, byte in enumerate(rest)}
    return [stand_in[byte] for byte in range(256)]


def _write_vocabulary(writer: gguf.GGUFWriter, size: int, pre_tokenizer: str) -> None:
    texts = _byte_texts()
    normal = size - 3 - len(texts)
    # Merges of two letters each; then names that no text contains.
    letters = "abcdefghijklmnopqrstuvwxyz"
    pairs = [(a, b) for a in letters for b in letters][:normal]
    tokens = [*texts, *(a + b for a, b in pairs)]
    tokens += [f"<unused{i}>" for i in range(size - 3 - len(tokens))]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    types = [gguf.TokenType.NORMAL] * len(tokens) + [gguf.TokenType.CONTROL] * len(special)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list([*tokens, *special])
    writer.add_token_types([int(kind) for kind in types])
    writer.add_token_merges([f"{a} {b}" for a, b in pairs])
    writer.add_eos_token_id(size - 1)
    writer.add_pad_token_id(size - 3)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def write_random(shape: QwenShape, quantisation: str, target: Path, seed: int = 0) -> None:
    """Write the file, quantised by llama.cpp; atomically."""
    rng = np.random.default_rng(seed)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        full = Path(folder) / "full.gguf"
        writer = gguf.GGUFWriter(full, "qwen2", use_temp_file=True)
        writer.add_name("random-qwen2")
        writer.add_description("Random weights: for measuring speed, not for answers")
        writer.add_context_length(shape.context)
        writer.add_embedding_length(shape.width)
        writer.add_block_count(shape.layers)
        writer.add_feed_forward_length(shape.feed_forward)
        writer.add_head_count(shape.heads)
        writer.add_head_count_kv(shape.key_value_heads)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_rope_freq_base(1_000_000.0)
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        _write_vocabulary(writer, shape.vocabulary, shape.pre_tokenizer)

        def matrix(name: str, rows: int, columns: int) -> None:
            values = rng.standard_normal((rows, columns), dtype=np.float32)
            writer.add_tensor(name, (values * np.float32(0.02)).astype(np.float16))

        def vector(name: str, size: int, value: float) -> None:
            writer.add_tensor(name, np.full(size, value, dtype=np.float32))

        kv = shape.key_value_width
        matrix("token_embd.weight", shape.vocabulary, shape.width)
        vector("output_norm.weight", shape.width, 1.0)
        for i in range(shape.layers):
            vector(f"blk.{i}.attn_norm.weight", shape.width, 1.0)
            for name, rows in (("q", shape.width), ("k", kv), ("v", kv)):
                matrix(f"blk.{i}.attn_{name}.weight", rows, shape.width)
                vector(f"blk.{i}.attn_{name}.bias", rows, 0.0)
            matrix(f"blk.{i}.attn_output.weight", shape.width, shape.width)
            vector(f"blk.{i}.ffn_norm.weight", shape.width, 1.0)
            matrix(f"blk.{i}.ffn_gate.weight", shape.feed_forward, shape.width)
            matrix(f"blk.{i}.ffn_up.weight", shape.feed_forward, shape.width)
            matrix(f"blk.{i}.ffn_down.weight", shape.width, shape.feed_forward)
        finish(writer)
        quantise(full, target, quantisation)
