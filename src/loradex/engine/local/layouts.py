"""How modules whose weights lie in the engine's own way come into an engine directory, and back out of it.

A new way is one more entry of `LAYOUTS`: what takes a module apart into tensors and plain facts, and what makes it of
these again, mapped as they are. All other modules keep their parameters as transformers has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from loradex.engine.local.laid import Laid
from loradex.engine.local.packed import PackedEmbedding, PackedLinear
from loradex.engine.local.panel_linear import PanelLinear
from loradex.engine.local.panels import Panels, Scratch
from loradex.engine.local.quantized import QuantizedLinear
from loradex.engine.local.rounding import Rounded
from loradex.errors import ConfigInvalid


class Parts(NamedTuple):
    """A module taken apart: tensors by name, and what else is to be known, as JSON can hold it."""

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]


class Site(NamedTuple):
    """Where modules are made: the model that they go into, the dtype of inputs and outputs, what linears share."""

    model: PreTrainedModel
    dtype: torch.dtype
    scratch: Scratch


class Layout(NamedTuple):
    """One way: `take` returns the parts of a module, None of one of another kind; `make` makes it again."""

    take: Callable[[nn.Module], Parts | None]
    make: Callable[[Mapping[str, torch.Tensor], Mapping[str, Any], Site], nn.Module]


def take_apart(module: nn.Module) -> tuple[str, Parts] | None:
    """Return the name of a module's layout and its parts; None where its parameters lie as transformers has them."""
    return next(((name, parts) for name, layout in LAYOUTS.items() if (parts := layout.take(module)) is not None), None)


def put_in(model: PreTrainedModel, kinds: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, torch.Tensor]) -> None:
    """Make every module of `kinds` (path to its layout's name and facts) and put it into the model.

    Raises:
        ConfigInvalid: a layout is not known here.
        KeyError: a tensor is missing.
    """
    if unknown := {str(kind["layout"]) for kind in kinds.values()} - LAYOUTS.keys():
        raise ConfigInvalid(f"Layouts are not known here: {', '.join(sorted(unknown))}", hint="Build the engine again")
    own: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        own.setdefault(name.rpartition(".")[0], {})[name.rpartition(".")[2]] = tensor
    site = Site(model, model.dtype, Scratch())
    for name, layout in LAYOUTS.items():  # in this order: an embedding may read the head's weights
        for path in (path for path, kind in kinds.items() if kind["layout"] == name):
            model.set_submodule(path, layout.make(own.get(path, {}), kinds[path]["facts"], site))


def _shape(facts: Mapping[str, Any]) -> tuple[int, int]:
    rows, columns = facts["shape"]
    return rows, columns


def _with_bias(tensors: Iterable[tuple[str, torch.Tensor]], bias: torch.Tensor | None) -> dict[str, torch.Tensor]:
    return dict(tensors) | ({} if bias is None else {"bias": bias})


def _take_panels(module: nn.Module) -> Parts | None:
    panels = module.few if isinstance(module, QuantizedLinear | PanelLinear) else None
    if panels is None:
        return None
    laid = panels.laid
    tensors = {"codes": laid.codes} if laid.bits == 16 else {"codes": laid.codes, "scales": laid.scales}
    facts = {"shape": [laid.out_features, laid.in_features], "bits": laid.bits}
    bias: Any = module.bias
    return Parts(_with_bias(tensors.items(), bias), facts)


def _make_panels(tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any], site: Site) -> nn.Module:
    codes, bias = tensors["codes"], tensors.get("bias")
    scales = torch.empty(len(codes), 0) if facts["bits"] == 16 else tensors["scales"]
    laid = Laid(codes, scales, facts["bits"], *_shape(facts))
    if laid.bits == 16:
        return PanelLinear(laid, bias, site.scratch)
    return QuantizedLinear.ready(Panels(laid, bias, site.dtype, site.scratch), bias, site.dtype)


def _take_rounded(module: nn.Module) -> Parts | None:
    if not isinstance(module, QuantizedLinear) or module.rounded is None:
        return None
    tensors = {"codes": module.rounded.codes, "scales": module.rounded.scales}
    return Parts(_with_bias(tensors.items(), module.bias), {"bits": module.rounded.bits})


def _make_rounded(tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any], site: Site) -> nn.Module:
    rounded = Rounded(tensors["codes"], tensors["scales"], facts["bits"])
    return QuantizedLinear(rounded, tensors.get("bias"), site.dtype)


def _take_packed(module: nn.Module) -> Parts | None:
    """oneDNN does not say how it lays weights, so they are kept as they were and packed at each start."""
    if not isinstance(module, PackedLinear):
        return None
    weight = module.dense(0, module.out_features)
    return Parts(_with_bias([("weight", weight)], module.bias), {"shape": [module.out_features, module.in_features]})


def _make_packed(tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any], site: Site) -> nn.Module:
    rows, columns = _shape(facts)
    plain = nn.Linear(columns, rows, bias="bias" in tensors, device="meta")
    for name, tensor in tensors.items():
        setattr(plain, name, nn.Parameter(tensor, requires_grad=False))
    return PackedLinear(plain)


def _take_tied(module: nn.Module) -> Parts | None:
    return Parts({}, {}) if isinstance(module, PackedEmbedding) else None


def _make_tied(tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any], site: Site) -> nn.Module:
    head: Any = site.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return PackedEmbedding(head)


LAYOUTS: Final[Mapping[str, Layout]] = {
    "panels": Layout(_take_panels, _make_panels),
    "rounded": Layout(_take_rounded, _make_rounded),
    "onednn": Layout(_take_packed, _make_packed),
    "tied": Layout(_take_tied, _make_tied),
}
