"""Write a trained network as a GGUF file and quantise it with llama.cpp."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import torch

from device_agent.engine.llama_log import collect_errors
from learning.shipped_models.corpus import PROMPT_TEMPLATE
from learning.shipped_models.network import Block, Transformer
from learning.shipped_models.vocabulary import BOS, EOS, UNKNOWN, Vocabulary

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'user' %}"
    + PROMPT_TEMPLATE.format("{{ message.content }}")
    + "{% elif message.role == 'assistant' %}{{ message.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
"""What chat software must write around a question; stored in the file, as for any chat model."""


def _tensors(model: Transformer) -> dict[str, torch.Tensor]:
    """Name the weights as llama.cpp's `llama` architecture names them."""
    named = {
        "token_embd.weight": model.embedding.weight,
        "output_norm.weight": model.norm.weight,
    }
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        q, k, v = block.attention.qkv.weight.chunk(3)
        gate, up = block.feed_forward.gate_up.weight.chunk(2)
        named |= {
            f"blk.{i}.attn_norm.weight": block.attention_norm.weight,
            f"blk.{i}.attn_q.weight": q,
            f"blk.{i}.attn_k.weight": k,
            f"blk.{i}.attn_v.weight": v,
            f"blk.{i}.attn_output.weight": block.attention.out.weight,
            f"blk.{i}.ffn_norm.weight": block.feed_forward_norm.weight,
            f"blk.{i}.ffn_gate.weight": gate,
            f"blk.{i}.ffn_up.weight": up,
            f"blk.{i}.ffn_down.weight": block.feed_forward.down.weight,
        }
    return {name: tensor.detach().float() for name, tensor in named.items()}


def write_gguf(
    model: Transformer, vocabulary: Vocabulary, name: str, description: str, path: Path
) -> None:
    """Write the network in single precision."""
    shape = model.shape
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_description(description)
    writer.add_license("Apache-2.0")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_rms_eps(shape.rms_epsilon)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_vocab_size(vocabulary.size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    pieces = vocabulary.pieces()
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces.texts)
    writer.add_token_scores(pieces.scores)
    writer.add_token_types(pieces.types)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    for tensor_name, tensor in _tensors(model).items():
        writer.add_tensor(tensor_name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(source: Path, target: Path, quantisation: str) -> None:
    """Quantise with llama.cpp (`quantisation` as it names them, such as Q8_0), atomically."""
    errors = collect_errors()
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quantisation}")
    parameters.nthread = os.cpu_count() or 1
    partial = target.with_suffix(".partial")
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(partial).encode(), parameters)
    if status != 0:
        partial.unlink(missing_ok=True)
        reason = "; ".join(errors) or f"status {status}"
        raise RuntimeError(f"llama.cpp could not quantise {source} to {quantisation}: {reason}")
    partial.replace(target)


def export(
    model: Transformer,
    vocabulary: Vocabulary,
    name: str,
    description: str,
    quantisation: str,
    target: Path,
) -> None:
    """Write the network to `target`, quantised."""
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder) / "full.gguf"
        write_gguf(model, vocabulary, name, description, full)
        quantise(full, target, quantisation)
