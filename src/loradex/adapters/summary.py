"""What an adapter does to each kind of linear, in one line a kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loradex.adapters.adapter import LoraLayer
from loradex.adapters.keys import kind


@dataclass(frozen=True, slots=True)
class Kind:
    """The linears of one kind and one shape.

    Attributes:
        name: such as `q_proj`.
        count: how many of them are adapted.
        in_features, out_features: of each.
        ranks, scalings: all that occur among them, in order.
    """

    name: str
    count: int
    in_features: int
    out_features: int
    ranks: tuple[int, ...]
    scalings: tuple[float, ...]


def kinds(layers: Mapping[str, LoraLayer]) -> tuple[Kind, ...]:
    """Return the kinds of linears among an adapter's layers, by name and shape."""
    found: dict[tuple[str, int, int], list[LoraLayer]] = {}
    for module, layer in layers.items():
        found.setdefault((kind(module), layer.in_features, layer.out_features), []).append(layer)
    return tuple(
        Kind(
            name,
            len(each),
            inputs,
            outputs,
            tuple(sorted({layer.rank for layer in each})),
            tuple(sorted({layer.scaling for layer in each})),
        )
        for (name, inputs, outputs), each in sorted(found.items())
    )
