"""`python -m protos.generate`: make the Python code of every .proto file, importable as `protos.…`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent


def generate(out: Path) -> list[Path]:
    """Generate messages, stubs and type hints below `out`; return the files written.

    protoc writes imports that start at the proto root (`from airloom.v1 import …`); here that root
    is the package `protos`, so the imports are made to say so.
    """
    import grpc_tools
    from grpc_tools import protoc

    sources = sorted(HERE.rglob("*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"-I{HERE}",
            f"-I{well_known}",
            f"--python_out={out}",
            f"--pyi_out={out}",
            f"--grpc_python_out={out}",
            *map(str, sources),
        ]
    )
    if status != 0:
        raise SystemExit(status)
    written = sorted(p for p in out.rglob("*_pb2*") if p.suffix in (".py", ".pyi"))
    for path in written:
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"^from airloom\.", "from protos.airloom.", text, flags=re.MULTILINE)
        path.write_text(text, encoding="utf-8")
    return written


if __name__ == "__main__":
    for path in generate(HERE):
        print(path.relative_to(HERE.parent), file=sys.stderr)
