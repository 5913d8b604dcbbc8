"""`python -m testbed.training [MODEL …]`: train and export the shipped models, going on where it stopped."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from testbed.training.export import export
from testbed.training.recipes import RECIPES
from testbed.training.train import train


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m testbed.training", description=__doc__)
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
