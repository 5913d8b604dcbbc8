"""`python -m learning.shipped_models [MODEL …]`: train and export the shipped models, resumably."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from learning.shipped_models.export import export
from learning.shipped_models.recipes import RECIPES
from learning.shipped_models.train import train


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m learning.shipped_models", description=__doc__)
    parser.add_argument("models", nargs="*", choices=[*RECIPES, []], help="default: all of them")
    parser.add_argument("--out", type=Path, default=Path("models"), help="where the GGUF files go")
    parser.add_argument(
        "--work", type=Path, default=Path("build/training"), help="where checkpoints are kept"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.models or RECIPES:
        recipe = RECIPES[name]
        model, vocabulary = train(recipe, arguments.work, lambda line: print(line, flush=True))
        target = arguments.out / f"{name}.{recipe.quantisation}.gguf"
        export(model, vocabulary, name, recipe.description, recipe.quantisation, target)
        print(f"{name}: wrote {target} ({target.stat().st_size:,} bytes)", flush=True)


if __name__ == "__main__":
    main()
