"""Do the tensors of an adapter that are no low-rank pairs fit a base model?"""

from __future__ import annotations

from loradex.adapters.adapter import Adapter, Extra
from loradex.adapters.keys import kind
from loradex.adapters.listing import listed
from loradex.core.model import ModelInfo
from loradex.errors import Problem

# Heads of other tasks than the next token, which PEFT saves beside the adapter.
_TASK_HEADS = frozenset(("score", "classifier", "classification_head", "qa_outputs", "v_head"))


def check_extras(adapter: Adapter, base: ModelInfo) -> list[Problem]:
    """Return every reason why these tensors cannot be put into this base."""
    placed = [extra for extra in adapter.extras if extra.role not in ("magnitude", "pair_bias")]
    heads = sorted({extra.module for extra in placed if kind(extra.module) in _TASK_HEADS})
    problems = [_task_head(heads)] if heads else []
    placed = [extra for extra in placed if extra.module not in heads]
    unknown = [extra for extra in placed if _wanted(extra, base) is None]
    if unknown:
        names = listed(extra.tensor for extra in unknown)
        what = f"{len(unknown)} tensors are for parameters that the base model `{base.id}` does not have: {names}"
        problems.append(Problem("unknown_modules", what, "Serve the base on which it was trained"))
    size = adapter.vocab_size(base)
    problems += _resized(adapter, base, size) if size != base.vocab_size else []
    known = [(extra, wanted) for extra in placed if (wanted := _wanted(extra, base)) is not None]
    problems += [
        _misfit(extra, wanted, base) for extra, wanted in known if extra.shape != _as_wide(extra, wanted, size, base)
    ]
    return problems + _tokens(adapter, base, size) + _absent(adapter, base)


def _wanted(extra: Extra, base: ModelInfo) -> tuple[int, ...] | None:
    """Return the shape that a tensor must have, None where the base has no place for it."""
    if extra.role != "tokens":
        return base.parameters.get(f"{extra.module}.{'bias' if extra.role == 'bias' else 'weight'}")
    shape = base.parameters.get(f"{extra.module}.weight") if extra.module in (base.embedding, base.head) else None
    return None if shape is None else (*extra.shape[:1], shape[1])


def _as_wide(extra: Extra, wanted: tuple[int, ...], size: int, base: ModelInfo) -> tuple[int, ...]:
    """Return the shape that is wanted under an adapter with `size` token ids."""
    return (size, *wanted[1:]) if _is_end(extra, base) else wanted


def _is_end(extra: Extra, base: ModelInfo) -> bool:
    return extra.module in (base.embedding, base.head) and extra.role in ("weight", "base_weight")


def _resized(adapter: Adapter, base: ModelInfo, size: int) -> list[Problem]:
    """Return a problem where rows of added tokens are missing, which PEFT would leave to chance."""
    roles = {extra.module: extra.role for extra in adapter.extras if _is_end(extra, base)}
    # What is said of one of two tied weights is said of both, unless it is one of `modules_to_save`.
    shared = base.tied and "weight" not in roles.values()
    missing = [] if shared and roles else [name for name in (base.embedding, base.head) if name not in roles]
    problems = []
    if missing:
        what = f"It has {size} token ids, the base model `{base.id}` {base.vocab_size}, but not the weights of "
        fix = "Save it again with `save_embedding_layers=True`, and with embedding and head in `modules_to_save`"
        problems.append(Problem("vocabulary", what + listed(missing), fix))
    if f"{base.head}.bias" in base.parameters:
        what = (
            f"It has {size} token ids; the output head of the base model `{base.id}` has a bias for {base.vocab_size}"
        )
        fix = "Resize the base with `resize_token_embeddings`, save it with the adapter's tokenizer, and serve that"
        problems.append(Problem("vocabulary", what, fix))
    return problems


def _task_head(heads: list[str]) -> Problem:
    what = f"{listed(heads)} is the head of another task, such as classification; here the next token is predicted"
    return Problem("task_head", what, "Train it as a causal language model, or run it with transformers and PEFT")


def _misfit(extra: Extra, wanted: tuple[int, ...], base: ModelInfo) -> Problem:
    shapes = f"`{extra.tensor}` is {list(extra.shape)}; in the base model `{base.id}` it is {list(wanted)}"
    if _is_end(extra, base) and extra.shape[1:] == wanted[1:]:
        return resized_vocabulary(shapes)
    return Problem("shape_mismatch", shapes, "Serve the base on which it was trained")


def resized_vocabulary(shapes: str) -> Problem:
    """Return the problem of an adapter whose weights are for different vocabularies; `shapes` says both."""
    what = f"Its vocabulary was resized, by added tokens or to a round number, and not all of it is there: {shapes}"
    return Problem("vocabulary", what, "Save it again with PEFT's `save_pretrained(..., save_embedding_layers=True)`")


def _tokens(adapter: Adapter, base: ModelInfo, size: int) -> list[Problem]:
    used = {token for ids in (*adapter.tokens.values(), adapter.invocation) for token in ids}
    used |= {token.id for token in adapter.vocabulary.tokens} if adapter.vocabulary else set()
    beyond = sorted(token for token in used if token >= size)
    if not beyond:
        return []
    return [resized_vocabulary(f"it uses tokens {listed(map(str, beyond))}, and there are {size} token ids")]


def _absent(adapter: Adapter, base: ModelInfo) -> list[Problem]:
    modules = [name.rpartition(".")[0] for name in base.parameters]
    gone = [name for name in adapter.absent if any(f"{module}.".find(f"{name}.") >= 0 for module in modules)]
    if not gone:
        return []
    what = f"`modules_to_save` names {listed(gone)}, but there are no tensors for it"
    return [Problem("missing_tensors", what, "Save the adapter again with PEFT's `save_pretrained`")]
