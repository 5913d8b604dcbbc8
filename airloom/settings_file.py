"""Read a YAML file into a pydantic model; every error names the file, the line and the field."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo

from airloom.errors import ConfigurationError

Loaded = TypeVar("Loaded", bound=BaseModel)


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    folder: Path = (info.context or {}).get("folder", Path())
    return folder / path.expanduser()


FilePath = Annotated[Path, AfterValidator(_beside_the_file)]
"""A path; a relative one starts at the folder of the file that names it."""


class Settings(BaseModel):
    """Base of everything read from YAML: unknown fields are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key written twice, which YAML would let the second silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key_node.value!r} is written twice",
                    problem_mark=key_node.start_mark,
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _line_of(node: yaml.Node, location: tuple[int | str, ...]) -> int:
    """Find the line (from 1) of the deepest part of a location that the file has."""
    line = node.start_mark.line + 1
    for step in location:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == str(step)]
            if not found:
                # Pydantic puts union members' names into locations; they are not in the file.
                continue
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            if step >= len(node.value):
                break
            node = node.value[step]
            line = node.start_mark.line + 1
    return line


def load_yaml(path: Path, kind: type[Loaded]) -> Loaded:
    """Read and validate a file.

    Raises:
        ConfigurationError: it cannot be read, is not YAML, or does not fit `kind`; names the
            first thing wrong and counts the others.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"cannot be read: {reason}", source=path) from error
    try:
        node = yaml.compose(text, Loader=_UniqueKeyLoader)
        data = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ConfigurationError(
            f"not valid YAML: {error.problem}",
            source=path,
            line=None if mark is None else mark.line + 1,
        ) from error
    if node is None or not isinstance(data, dict):
        raise ConfigurationError("must hold a mapping of fields", source=path, line=1)
    try:
        return kind.model_validate(data, context={"folder": path.resolve().parent})
    except ValidationError as error:
        first, *others = error.errors()
        location = first["loc"]
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = "there is no such field"
        more = f" (and {len(others)} more)" if others else ""
        raise ConfigurationError(
            message + more,
            source=path,
            line=_line_of(node, location),
            field=".".join(map(str, location)) or None,
        ) from error
