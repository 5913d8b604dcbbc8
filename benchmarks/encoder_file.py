"""A small random BERT (Devlin et al. 2019) as a GGUF file: a model that can only embed."""

from __future__ import annotations

import string
from pathlib import Path

import gguf
import numpy as np

from benchmarks.gguf_files import finish

_LAYERS, _WIDTH, _HEADS, _FEED_FORWARD, _CONTEXT = 1, 64, 2, 96, 128


def write_encoder(path: Path, seed: int = 0) -> Path:
    """Write it, with a vocabulary of single characters."""
    characters = string.ascii_lowercase + string.digits + string.punctuation
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # llama.cpp writes a word's beginning as "▁", and what goes on without it.
    tokens = [*special, *(f"▁{one}" for one in characters), *characters]
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("random-bert")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_type_count(2)
    kinds = [gguf.TokenType.CONTROL] * len(special)
    kinds += [gguf.TokenType.NORMAL] * (len(tokens) - len(special))
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_mask_token_id(4)
    rng = np.random.default_rng(seed)

    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(f"{name}.weight", rng.normal(0, 0.3, (rows, columns)).astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(_WIDTH, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(_WIDTH, np.float32))

    def linear(name: str, rows: int, columns: int) -> None:
        matrix(name, rows, columns)
        writer.add_tensor(f"{name}.bias", np.zeros(rows, np.float32))

    matrix("token_embd", len(tokens), _WIDTH)
    matrix("token_types", 2, _WIDTH)
    matrix("position_embd", _CONTEXT, _WIDTH)
    norm("token_embd_norm")
    for layer in range(_LAYERS):
        block = f"blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            linear(f"{block}.{name}", _WIDTH, _WIDTH)
        norm(f"{block}.attn_output_norm")
        linear(f"{block}.ffn_up", _FEED_FORWARD, _WIDTH)
        linear(f"{block}.ffn_down", _WIDTH, _FEED_FORWARD)
        norm(f"{block}.layer_output_norm")
    finish(writer)
    return path
