"""Activated LoRA: adapters that act only from their invocation tokens on (arXiv:2504.12397).

What comes before is computed by the base alone, so its keys and values are the base's, and shared with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loradex.core.mix import Mix

Phase = tuple[int, Mix[str]]
"""From which token on which adapters act."""


def phases(mix: Mix[str], prompt: Sequence[int], invocations: Mapping[str, Sequence[int]]) -> tuple[Phase, ...]:
    """Return what acts from which token of a prompt on, in order, the first from token 0.

    As in PEFT, an adapter acts from the first token of its last invocation in the prompt; one whose invocation is not
    there does not act at all. Empty where all act from the beginning, as adapters without invocation tokens do.
    """
    if not any(digest in invocations for digest in mix.adapters):
        return ()
    begins = {digest: _last(prompt, invocations[digest]) if digest in invocations else 0 for digest in mix.adapters}
    turns = sorted({0, *(begin for begin in begins.values() if begin is not None)})
    found = tuple((turn, _acting(mix, begins, turn)) for turn in turns)
    return () if found == ((0, mix),) else found


def _acting(mix: Mix[str], begins: Mapping[str, int | None], token: int) -> Mix[str]:
    acting = {digest for digest, begin in begins.items() if begin is not None and begin <= token}
    return Mix(tuple(member for member in mix.members if member[0] in acting))


def _last(prompt: Sequence[int], wanted: Sequence[int]) -> int | None:
    size, target = len(wanted), list(wanted)
    return next((at for at in range(len(prompt) - size, -1, -1) if list(prompt[at : at + size]) == target), None)
