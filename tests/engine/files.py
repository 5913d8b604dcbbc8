"""Small model files made for a test: a random network, adapters for it, a projector."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import gguf
import numpy as np
import torch
from engines import MODELS
from matplotlib.image import imsave

from benchmarks.gguf_files import copy_field, finish
from learning.shipped_models.export import write_gguf
from learning.shipped_models.network import Shape, Transformer
from learning.shipped_models.vocabulary import CharacterVocabulary

SHAPE = Shape(layers=2, width=64, feed_forward=96, context=256)


def random_network(seed: int = 1) -> Transformer:
    """A network with opinions: initial weights would make every next token alike."""
    torch.manual_seed(seed)
    network = Transformer(SHAPE, CharacterVocabulary().size)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4.0) if parameter.dim() == 2 else parameter.uniform_(0.5, 1.5)
    return network


def write_network(network: Transformer, path: Path) -> Path:
    write_gguf(network, CharacterVocabulary(), path.stem, "for a test", path)
    return path


class Lora:
    """Random low-rank changes of every down-projection: ΔW = scale · alpha / rank · B A."""

    rank, alpha = 4, 8.0

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.pairs = [
            (
                rng.normal(0, 0.5, (self.rank, SHAPE.feed_forward)).astype(np.float32),
                rng.normal(0, 0.5, (SHAPE.width, self.rank)).astype(np.float32),
            )
            for _ in range(SHAPE.layers)
        ]

    def write(self, path: Path, invocation: list[int] | None = None) -> Path:
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", self.alpha)
        if invocation:
            key = "adapter.alora.invocation_tokens"
            writer.add_key_value(
                key, invocation, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32
            )
        for layer, (a, b) in enumerate(self.pairs):
            writer.add_tensor(f"blk.{layer}.ffn_down.weight.lora_a", a)
            writer.add_tensor(f"blk.{layer}.ffn_down.weight.lora_b", b)
        finish(writer)
        return path

    def merged(self, network: Transformer, scale: float) -> Transformer:
        """The network with the adapter's change added to its weights."""
        changed = copy.deepcopy(network)
        with torch.no_grad():
            for block, (a, b) in zip(changed.blocks, self.pairs, strict=True):
                change = torch.from_numpy(b @ a) * (scale * self.alpha / self.rank)
                block.feed_forward.down.weight += change
        return changed


class GreyLetters:
    """A projector that reads text from grey patches: patch k is the k-th printable character.

    Real llama.cpp vision code on an image of 3 x 3 patches, with weights set by hand: the patch
    convolution measures brightness, the two-layer projection turns it into the embedding that the
    language model has for that character. So an image of a text must mean what the text means.
    """

    side, patch = 3, 4
    first, last = " ", "~"
    sharpness = 20.0

    def __init__(self, model: Path) -> None:
        self._model = model

    def image(self, text: str) -> bytes:
        """A PNG whose patches spell nine characters."""
        assert len(text) == self.side**2
        levels = np.array([2 * (ord(c) - ord(self.first)) for c in text], np.uint8)
        pixels = np.kron(levels.reshape(self.side, self.side), np.ones((self.patch, self.patch)))
        file = io.BytesIO()
        imsave(file, np.repeat(pixels[..., None], 3, axis=2).astype(np.uint8), format="png")
        return file.getvalue()

    def write(self, path: Path) -> Path:
        reader = gguf.GGUFReader(self._model)
        table = next(t for t in reader.tensors if t.name == "token_embd.weight")
        embeddings = gguf.dequantize(table.data, table.tensor_type)
        field = reader.fields["tokenizer.ggml.tokens"]
        texts = [bytes(field.parts[i]).decode() for i in field.data]
        letters = [chr(code) for code in range(ord(self.first), ord(self.last) + 1)]
        known = np.zeros((len(letters) + 4, embeddings.shape[1]), np.float32)
        for index, letter in enumerate(letters):
            known[index + 2] = embeddings[texts.index(letter.replace(" ", "▁"))]
        width, units = 32, len(letters) + 2
        writer = gguf.GGUFWriter(path, "clip")
        writer.add_type("mmproj")
        writer.add_bool("clip.has_vision_encoder", True)
        writer.add_string("clip.projector_type", "mlp")
        for name, value in {
            "image_size": self.side * self.patch, "patch_size": self.patch,
            "embedding_length": width, "feed_forward_length": width, "block_count": 1,
            "projection_dim": embeddings.shape[1], "attention.head_count": 1,
        }.items():  # fmt: skip
            writer.add_uint32(f"clip.vision.{name}", value)
        writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
        writer.add_array("clip.vision.image_mean", [0.0, 0.0, 0.0])
        writer.add_array("clip.vision.image_std", [1.0, 1.0, 1.0])
        writer.add_bool("clip.use_gelu", True)

        convolution = np.zeros((width, 3, self.patch, self.patch), np.float32)
        # Brightness 2 k / 255 becomes k.
        convolution[0] = 255 / 2 / (3 * self.patch**2)
        writer.add_tensor("v.patch_embd.weight", convolution)
        writer.add_tensor("v.position_embd.weight", np.zeros((self.side**2, width), np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_out", "ffn_up", "ffn_down"):
            writer.add_tensor(f"v.blk.0.{name}.weight", np.zeros((width, width), np.float32))
            writer.add_tensor(f"v.blk.0.{name}.bias", np.zeros(width, np.float32))
        for name in ("ln1", "ln2"):
            writer.add_tensor(f"v.blk.0.{name}.weight", np.ones(width, np.float32))
            writer.add_tensor(f"v.blk.0.{name}.bias", np.zeros(width, np.float32))
        # Unit j is max(0, sharpness (brightness - j + 1)): second differences single out one level.
        first = np.zeros((units, width), np.float32)
        first[:, 0] = self.sharpness
        writer.add_tensor("mm.0.weight", first)
        offsets = -self.sharpness * (np.arange(units, dtype=np.float32) - 1)
        writer.add_tensor("mm.0.bias", offsets)
        second = (known[2:] - 2 * known[1:-1] + known[:-2]) / self.sharpness
        writer.add_tensor("mm.2.weight", np.ascontiguousarray(second.T))
        writer.add_tensor("mm.2.bias", np.zeros(embeddings.shape[1], np.float32))
        finish(writer)
        return path


class RandomTensors:
    """Adds tensors of normally distributed numbers to a file."""

    def __init__(self, writer: gguf.GGUFWriter, seed: int) -> None:
        self._writer, self._rng = writer, np.random.default_rng(seed)

    def __call__(self, name: str, *shape: int, scale: float = 0.4, offset: float = 0.0) -> None:
        values = offset + self._rng.normal(0, scale, shape)
        self._writer.add_tensor(name, values.astype(np.float32))


def write_mamba(path: Path, seed: int = 1) -> Path:
    """A random state-space model (Gu and Dao 2023): its memory is one state, and cannot be cut.

    Tensors and their shapes as llama.cpp names them (`mamba`); the vocabulary is a shipped model's.
    """
    layers, width, inner, states, steps, kernel = 2, 32, 64, 8, 4, 4
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(layers)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(states)
    writer.add_ssm_time_step_rank(steps)
    writer.add_layer_norm_rms_eps(1e-5)
    vocabulary = _copy_tokenizer(writer)
    add = RandomTensors(writer, seed)
    add("token_embd.weight", vocabulary, width, scale=1.0)
    add("output_norm.weight", width, scale=0.1, offset=1.0)
    for layer in range(layers):
        block = f"blk.{layer}"
        add(f"{block}.attn_norm.weight", width, scale=0.1, offset=1.0)
        add(f"{block}.ssm_in.weight", 2 * inner, width, scale=0.4)
        add(f"{block}.ssm_conv1d.weight", inner, kernel, scale=0.5)
        add(f"{block}.ssm_conv1d.bias", inner, scale=0.1)
        add(f"{block}.ssm_x.weight", steps + 2 * states, inner, scale=0.3)
        add(f"{block}.ssm_dt.weight", inner, steps, scale=0.3)
        add(f"{block}.ssm_dt.bias", inner, scale=0.1)
        # Negative: a state fades.
        add(f"{block}.ssm_a", inner, states, scale=0.05, offset=-0.2)
        add(f"{block}.ssm_d", inner, scale=0.3)
        add(f"{block}.ssm_out.weight", width, inner, scale=0.3)
    finish(writer)
    return path


def write_gemma(path: Path, window: int, seed: int = 1) -> Path:
    """A random Gemma 2, of whose layers every other one sees the last `window` tokens only."""
    layers, width, feed_forward, heads = 4, 32, 64, 2
    writer = gguf.GGUFWriter(path, "gemma2")
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_key_length(width // heads)
    writer.add_value_length(width // heads)
    writer.add_block_count(layers)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_sliding_window(window)
    vocabulary = _copy_tokenizer(writer)
    add = RandomTensors(writer, seed)

    def norm(name: str) -> None:
        add(name, width, scale=0.1, offset=1.0)

    # Small, or a token would mostly say itself: the output has the same weights.
    add("token_embd.weight", vocabulary, width, scale=0.1)
    norm("output_norm.weight")
    for layer in range(layers):
        block = f"blk.{layer}"
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            norm(f"{block}.{name}.weight")
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"{block}.{name}.weight", width, width)
        add(f"{block}.ffn_gate.weight", feed_forward, width)
        add(f"{block}.ffn_up.weight", feed_forward, width)
        add(f"{block}.ffn_down.weight", width, feed_forward)
    finish(writer)
    return path


def byte_letters() -> list[str]:
    """A character for each byte, as byte-level vocabularies write them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(0x100)]


def write_byte_level(
    path: Path, pre: str = "gpt-2", *, template: str | None = None, end: str = "<|end|>"
) -> Path:
    """A random network over bytes, whose text is split as the pre-tokenizer `pre` does."""
    width, feed_forward = 32, 64
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(2)
    writer.add_block_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    tokens = [*byte_letters(), end, "aa"]
    normal, control = 1, 3
    writer.add_token_list(tokens)
    writer.add_token_types([*[normal] * 256, control, normal])
    writer.add_token_merges(["a a"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(256)
    if template is not None:
        writer.add_chat_template(template)
    add = RandomTensors(writer, 1)
    add("token_embd.weight", len(tokens), width)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        add(f"{name}.weight", width, scale=0.1, offset=1.0)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        add(f"blk.0.{name}.weight", width, width)
    add("blk.0.ffn_gate.weight", feed_forward, width)
    add("blk.0.ffn_up.weight", feed_forward, width)
    add("blk.0.ffn_down.weight", width, feed_forward)
    finish(writer)
    return path


def write_bert(path: Path) -> Path:
    """A random encoder (BERT): it embeds texts, and cannot continue them."""
    width, feed_forward, positions = 32, 64, 64
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(positions)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(2)
    writer.add_block_count(1)
    writer.add_layer_norm_eps(1e-5)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("bert")
    writer.add_token_type_count(2)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁1", "▁+", "▁what", "▁is"]
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 5 + [1] * 4)
    for add_id, number in (
        (writer.add_pad_token_id, 0), (writer.add_unk_token_id, 1),
        (writer.add_bos_token_id, 2), (writer.add_sep_token_id, 3), (writer.add_eos_token_id, 3),
        (writer.add_mask_token_id, 4),
    ):  # fmt: skip
        add_id(number)
    add = RandomTensors(writer, 1)
    add("token_embd.weight", len(tokens), width)
    add("token_types.weight", 2, width)
    add("position_embd.weight", positions, width)
    for name in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        add(f"{name}.weight", width, scale=0.1, offset=1.0)
        add(f"{name}.bias", width, scale=0.1)
    for name, outputs, inputs in (
        ("attn_q", width, width), ("attn_k", width, width), ("attn_v", width, width),
        ("attn_output", width, width), ("ffn_up", feed_forward, width),
        ("ffn_down", width, feed_forward),
    ):  # fmt: skip
        add(f"blk.0.{name}.weight", outputs, inputs)
        add(f"blk.0.{name}.bias", outputs, scale=0.1)
    finish(writer)
    return path


def _copy_tokenizer(writer: gguf.GGUFWriter) -> int:
    """Give a file a shipped model's vocabulary; returns its size."""
    source = gguf.GGUFReader(MODELS["mathematics"])
    for field in source.fields.values():
        if field.name.startswith("tokenizer."):
            copy_field(field, writer)
    return len(source.fields["tokenizer.ggml.tokens"].data)
