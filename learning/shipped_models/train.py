"""The training loop: Muon and AdamW, warm-ups and cosines, a checkpoint every minute."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from learning.shipped_models.corpus import IGNORED, draw_chunk, vocabulary_for
from learning.shipped_models.network import Transformer
from learning.shipped_models.recipes import Recipe
from learning.shipped_models.vocabulary import SubwordVocabulary, Vocabulary

_WARM_UP = 0.03


def learning_rate(recipe: Recipe, tokens_seen: int) -> float:
    """Linear warm-up over 3 % of each cycle, then a cosine down to a fiftieth of the peak.

    Warm restarts: Loshchilov and Hutter, SGDR (arXiv 1608.03983), eq. 5.
    """
    cycle, start = recipe.cycle_at(tokens_seen)
    progress = min((tokens_seen - start) / cycle.tokens, 1.0)
    if progress < _WARM_UP:
        return recipe.peak_learning_rate * (progress / _WARM_UP + 0.01)
    cosine = 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))
    return recipe.peak_learning_rate * (0.02 + 0.98 * cosine)


def make_optimizers(model: Transformer, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for the embedding and the norms.

    Muon (Jordan 2024) orthogonalises each update; scaled to AdamW's update size (Liu et al. 2025,
    arXiv 2502.16982) so that one learning rate serves both.
    """
    inner = [p for p in model.blocks.parameters() if p.dim() == 2]
    inner_ids = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in inner_ids]
    rate = recipe.peak_learning_rate
    return [
        torch.optim.Muon(inner, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def train(
    recipe: Recipe,
    folder: Path,
    report: Callable[[str], None],
    checkpoint_interval_s: float = 60.0,
) -> tuple[Transformer, Vocabulary]:
    """Train to the recipe's token budget, going on from `folder`'s checkpoint where there is one.

    `report` is told a line after every chunk, once its checkpoint (where one was due) is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint_path = folder / f"{recipe.name}.pt"
    torch.manual_seed(recipe.seed)
    saved: dict[str, Any] | None = None
    if checkpoint_path.exists():
        saved = torch.load(checkpoint_path, weights_only=False)
        if saved["recipe"] != recipe:
            report(f"{recipe.name}: the recipe changed, starting over")
            saved = None
    vocabulary: Vocabulary
    if saved is not None and saved["subwords"] is not None:
        vocabulary = SubwordVocabulary(saved["subwords"])
    else:
        vocabulary = vocabulary_for(recipe)
    model = Transformer(recipe.shape, vocabulary.size)
    optimizers = make_optimizers(model, recipe)
    chunk, tokens_seen, elapsed_s = 0, 0, 0.0
    if saved is not None:
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        chunk, tokens_seen, elapsed_s = saved["chunk"], saved["tokens_seen"], saved["elapsed_s"]
    parameters = sum(p.numel() for p in model.parameters())
    report(
        f"{recipe.name}: {parameters:,} parameters, {tokens_seen:,}/{recipe.tokens:,} tokens done"
    )

    def save() -> None:
        partial = checkpoint_path.with_suffix(".partial")
        state = {
            "recipe": recipe,
            "model": model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "chunk": chunk,
            "tokens_seen": tokens_seen,
            "elapsed_s": elapsed_s,
            "subwords": getattr(vocabulary, "model", None),
        }
        torch.save(state, partial)
        partial.replace(checkpoint_path)

    model.train()
    last_saved_s = time.monotonic()
    while tokens_seen < recipe.tokens:
        cycle, _ = recipe.cycle_at(tokens_seen)
        cut = draw_chunk(recipe, cycle.shares, vocabulary, chunk)
        started_s = time.monotonic()
        losses = []
        for batch in cut:
            logits = model(batch.inputs)
            loss = F.cross_entropy(
                logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED
            )
            model.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(recipe, tokens_seen)
                optimizer.step()
            tokens_seen += batch.tokens
            losses.append(loss.item())
        chunk += 1
        spent_s = time.monotonic() - started_s
        elapsed_s += spent_s
        rate = sum(batch.tokens for batch in cut) / spent_s
        if tokens_seen >= recipe.tokens or time.monotonic() - last_saved_s >= checkpoint_interval_s:
            save()
            last_saved_s = time.monotonic()
        report(
            f"{recipe.name}: {tokens_seen / recipe.tokens:6.1%}  loss {sum(losses) / len(losses):.4f}"
            f"  {rate:,.0f} tokens/s  {elapsed_s / 60:.1f} min"
        )
    model.eval()
    return model, vocabulary
