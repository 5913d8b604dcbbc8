"""LoRA files with random numbers, for measuring what adapters cost."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from benchmarks.gguf_files import finish


def write_random_lora(base: Path, target: Path, *, rank: int = 16, seed: int = 0) -> Path:
    """Write an adapter of every attention projection of a GGUF model."""
    rng = np.random.default_rng(seed)
    reader = gguf.GGUFReader(base)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(target, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for tensor in reader.tensors:
        if tensor.name.endswith((".attn_q.weight", ".attn_v.weight")):
            inputs, outputs = (int(size) for size in tensor.shape)
            a = rng.normal(0, 0.02, (rank, inputs)).astype(np.float32)
            b = rng.normal(0, 0.02, (outputs, rank)).astype(np.float32)
            writer.add_tensor(f"{tensor.name}.lora_a", a)
            writer.add_tensor(f"{tensor.name}.lora_b", b)
    finish(writer)
    return target
