"""From the tensors of an adapter to what it does to the modules of this base."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from loradex.adapters.adapter import Adapter
from loradex.engine.local.change import (
    Change,
    Weights,
    affine,
    chain,
    embedding,
    instead,
    low_rank,
    low_rank_embedding,
    matrix,
    token_embeddings,
    token_logits,
)
from loradex.engine.local.dense import Dense, dense
from loradex.engine.local.dora import column_lengths, row_lengths
from loradex.engine.local.lora import LoraPair
from loradex.engine.local.model import BaseModel
from loradex.engine.local.weights import Contents, Tensors

Rest = Callable[[], None]
"""Called after every bit of work, so that whoever computes answers is let in between."""


def fit(adapter: Adapter, contents: Contents, base: BaseModel, rest: Rest) -> Weights:
    """Work out what an adapter does in a base.

    Plain pairs on linears are taken as they are; only what lies beside them has to meet the base's weights.
    """
    pairs = dict(contents.pairs)
    extras = _shared(contents.extras, base)
    experts = _take_experts(pairs, base)
    changes: dict[str, Change] = {}
    for module in sorted({*extras, *(module for module in pairs if module not in base.linears)}):
        own, pair, tokens = extras.get(module, {}), pairs.pop(module, None), adapter.tokens.get(module, ())
        if module == base.embedding:
            links = _embedding(base.at(module), own, pair, tokens, rest)
        elif module in base.linears or module == base.head:
            links, pair = _linear(dense(base.at(module)), own, pair, rest)
            if pair is not None and module in base.linears:
                pairs[module] = pair
            elif pair is not None:
                links.append(low_rank(pair))
            if "tokens" in own:
                tokens = tokens or adapter.tokens[base.embedding]
                links.append(token_logits(*_by_token(tokens, own["tokens"])))
        else:
            links = [instead(_twin(base.at(module), own))]
        if links:
            changes[module] = chain(links)
        rest()
    size = _vocab_size(extras, base)
    return Weights(pairs, changes, experts, contents.nbytes, adapter.invocation, size)


def _vocab_size(extras: Mapping[str, Tensors], base: BaseModel) -> int | None:
    own = extras.get(base.embedding, {})
    weight = own.get("weight", own.get("base_weight"))
    return None if weight is None or weight.shape[0] == base.vocab_size else weight.shape[0]


def _take_experts(pairs: dict[str, LoraPair], base: BaseModel) -> dict[str, dict[str, LoraPair]]:
    """Take the pairs on stacked weights of experts out of `pairs`; return them by module and parameter."""
    found: dict[str, dict[str, LoraPair]] = {}
    for path in list(pairs):
        module, _, parameter = path.rpartition(".")
        if module in base.experts:
            found.setdefault(module, {})[parameter] = pairs.pop(path)
    return found


def _shared(extras: Mapping[str, Tensors], base: BaseModel) -> dict[str, Tensors]:
    """Give what is said of the weights that embedding and head have in common to both, unless one has its own.

    As PEFT does it, single tokens of the embedding are those of the head too, and not the other way round.
    """
    shared = dict(extras)
    roles = {base.embedding: ("base_weight", "tokens"), base.head: ("base_weight",)}
    for one, other in ((base.embedding, base.head), (base.head, base.embedding)) if base.tied else ():
        common: Tensors = {role: tensor for role, tensor in extras.get(one, {}).items() if role in roles[one]}
        if common and "weight" not in extras.get(other, {}):
            shared[other] = {**common, **shared.get(other, {})}
    return shared


def _linear(base: Dense, own: Tensors, pair: LoraPair | None, rest: Rest) -> tuple[list[Change], LoraPair | None]:
    """Return what is done to a linear's output before its pair is added, and the pair."""
    links: list[Change] = []
    bias = base.bias
    new_bias = own.get("bias", bias)
    weight, more = _new_weight(base, own, rest)
    if weight is not None:
        links.append(matrix(weight, new_bias))
        base, bias = _of(weight), new_bias
    elif more is not None:
        links.append(token_logits(*_beyond(base, more)))
        base = _longer(base, more)
    scale = None
    if "magnitude" in own and pair is not None:
        scale = own["magnitude"].flatten().float() / row_lengths(base.rows, base.count, pair, rest)
        pair = replace(pair, b=(pair.b.float() * scale).to(pair.b.dtype))
    shift = _shift(bias, new_bias, scale)
    if "pair_bias" in own and pair is not None:
        shift = pair.scaling * own["pair_bias"].float() + (0.0 if shift is None else shift)
    if scale is not None or shift is not None:
        links.append(_affine(scale, shift, own))
    return links, pair


def _shift(bias: torch.Tensor | None, new: torch.Tensor | None, scale: torch.Tensor | None) -> torch.Tensor | None:
    """Return what takes an output with `bias` that was scaled to one with the new bias, which is not scaled."""
    if bias is None or new is None or (new is bias and scale is None):
        return None
    return new.float() - (bias.float() if scale is None else bias.float() * scale)


def _embedding(
    module: nn.Module, own: Tensors, pair: LoraPair | None, tokens: Sequence[int], rest: Rest
) -> list[Change]:
    links: list[Change] = []
    base = dense(module)
    factor = float(getattr(module, "embed_scale", 1.0))
    weight, more = _new_weight(base, own, rest)
    if weight is not None:
        links.append(embedding(weight, factor))
        base = _of(weight)
    elif more is not None:
        links.append(token_embeddings(*_beyond(base, more), factor))
        base = _longer(base, more)
    if pair is not None:
        if "magnitude" in own:
            scale = own["magnitude"].flatten().float() / column_lengths(base.rows, base.count, pair, rest)
            links.append(_affine(scale, None, own))
            pair = replace(pair, b=(pair.b.float() * scale).to(pair.b.dtype))
        links.append(low_rank_embedding(pair, factor))
    if "tokens" in own:
        links.append(token_embeddings(*_by_token(tokens, own["tokens"]), factor))
    return links


def _new_weight(base: Dense, own: Tensors, rest: Rest) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the weight that stands in the place of the base's, or, where it is the same, the rows that it has more.

    PEFT saves the base's own embedding beside a pair on it, and where tokens were added: that need not be kept twice.
    """
    weight = own.get("weight", own.get("base_weight"))
    if weight is None:
        return None, None
    weight = weight.t() if base.transposed else weight
    if not base.equals(weight, rest):
        return weight, None
    return None, weight[base.count :] if weight.shape[0] > base.count else None


def _beyond(base: Dense, more: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ids of tokens that the base has not, and their rows."""
    return torch.arange(base.count, base.count + more.shape[0], device=more.device), more


def _longer(base: Dense, more: torch.Tensor) -> Dense:
    """Return the base's weight with more rows."""

    def rows(begin: int, end: int) -> torch.Tensor:
        known = base.rows(min(begin, base.count), min(end, base.count))
        return torch.cat((known, more[max(begin - base.count, 0) : max(end - base.count, 0)].to(known.dtype)))

    return Dense(rows, base.count + more.shape[0], base.bias)


def _of(weight: torch.Tensor) -> Dense:
    return Dense(lambda begin, end: weight[begin:end], weight.shape[0], None)


def _affine(scale: torch.Tensor | None, shift: torch.Tensor | None, own: Tensors) -> Change:
    dtype = next(iter(own.values())).dtype
    return affine(None if scale is None else scale.to(dtype), None if shift is None else shift.to(dtype))


def _by_token(tokens: Sequence[int], rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    ids, order = torch.tensor(tokens, device=rows.device).sort()
    return ids, rows[order]


def _twin(module: nn.Module, own: Tensors) -> nn.Module:
    """Return a module like the base's with other parameters; those that are not given stay the base's own."""
    twin = copy.copy(module)
    twin._parameters = dict(module._parameters)
    twin.__dict__.pop("forward", None)  # a kernel that stands for it knows the base's weights only
    for role, tensor in own.items():
        name = "bias" if role == "bias" else "weight"
        twin._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    return twin
