"""A configuration in YAML from a file that may come from anywhere: plain values only, and none that grow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from loradex.adapters.formats.mapped import Mapped
from loradex.adapters.formats.refusal import refuse
from loradex.adapters.listing import printable

MAX_BYTES = 1 << 18
_AGAIN = "Copy the file again from where the adapter was trained"


class _Loader(yaml.SafeLoader):
    """YAML without tags that name Python and without merging, by which a few lines double a table many times over."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("merge keys (`<<`) are not read")


# What a tag of another program describes has no part in the adapter.
_Loader.add_constructor(None, lambda loader, node: None)


def read_yaml(file: Mapped) -> Mapping[str, Any]:
    """Return the table that a file holds; what its tags call objects is None.

    Raises:
        AdapterInvalid: it is no YAML, no table, or larger than `MAX_BYTES`.
    """
    if len(file.data) > MAX_BYTES:
        refuse(file.path, "bad_config", f"holds a configuration of {len(file.data)} bytes", _AGAIN)
    try:
        found = yaml.load(file.data.tobytes(), _Loader)  # derived from SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError, LookupError, TypeError, AttributeError, OverflowError) as error:
        reason = printable(next(iter(str(error).splitlines()), ""))
        refuse(file.path, "bad_config", f"holds a configuration that is no YAML: {reason}", _AGAIN)
    if not isinstance(found, dict):
        refuse(file.path, "bad_config", "holds a configuration that is no table", _AGAIN)
    return found


def at(table: Mapping[str, Any], *names: str) -> Any:
    """Return the value under names within names, None where there is none."""
    value: Any = table
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def whole(table: Mapping[str, Any], *names: str) -> int:
    """Return a whole number above 0 under names within names, 0 where there is none."""
    value = at(table, *names)
    return value if type(value) is int and 0 < value < 2**31 else 0
