"""A YAML file of settings: its values, and the line on which each of them stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loradex.errors import ConfigInvalid

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class YamlFile:
    """What a file holds.

    Attributes:
        path: of the file.
        values: the mapping; its own and those within have text as names.
        lines: the line of each name, by the names that lead to it.
    """

    path: Path
    values: dict[str, Any]
    lines: dict[Names, int]

    def at(self, *names: str) -> str:
        """Return where a name stands: the file, and the line where that is known."""
        line = self.lines.get(names)
        return f"{self.path}" if line is None else f"{self.path}, line {line}"


def read_yaml(path: Path) -> YamlFile:
    """Read a file; an empty one is an empty mapping.

    Raises:
        ConfigInvalid: it cannot be read, is no YAML or no mapping, or has a name twice.
    """
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        lines = dict(_lines(node, path))
        values = loader.construct_document(node) if node is not None else {}
    except OSError as error:
        hint = "Name another with `--config`"
        raise ConfigInvalid(f"The settings file `{path}` cannot be read: {error.strerror}", hint=hint) from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, TypeError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise ConfigInvalid(f"The settings file `{path}` is not valid YAML: {said}") from error
    if not isinstance(values, dict):
        raise ConfigInvalid(f"`{path}` holds no settings: write `name: value` on each line")
    return YamlFile(path, values, lines)


def _lines(node: yaml.Node | None, path: Path, above: Names = ()) -> Iterator[tuple[Names, int]]:
    """Yield the names of a mapping and of those within it, each with its line."""
    seen: dict[str, int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigInvalid(f"{path}, line {line}: a name is no text")
        if key.value in seen:
            hint = "Leave one of them out"
            raise ConfigInvalid(
                f"`{key.value}` is there twice in {path}, lines {seen[key.value]} and {line}", hint=hint
            )
        seen[key.value] = line
        yield (*above, key.value), line
        yield from _lines(value, path, (*above, key.value))
