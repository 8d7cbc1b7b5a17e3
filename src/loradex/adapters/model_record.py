"""What is told of a base model, as JSON: engine directories keep it, whose weights tell no shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from loradex.core.model import LinearShape, ModelInfo


def written(info: ModelInfo) -> dict[str, Any]:
    """Return it as plain values."""
    linears = {name: [shape.in_features, shape.out_features] for name, shape in info.linears.items()}
    return asdict(info) | {"linears": linears}


def read(record: Mapping[str, Any]) -> ModelInfo:
    """Return what `written` was given.

    Raises:
        KeyError, TypeError: it is no such record.
    """
    linears = {name: LinearShape(*shape) for name, shape in record["linears"].items()}
    parameters = {name: tuple(shape) for name, shape in record["parameters"].items()}
    return ModelInfo(**{**record, "linears": linears, "parameters": parameters})
