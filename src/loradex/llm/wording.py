"""Errors name flags of the command line; whoever writes Python reads arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from loradex.errors import AdapterInvalid, LoradexError, NotFound, Problem

_FLAG = re.compile(r"`--([a-z][a-z-]*)(?: ([^`]+))?`")


@contextmanager
def in_arguments() -> Iterator[None]:
    """Let errors that pass through name arguments: "Serve with `--max-lora-rank 64`" becomes `max_lora_rank=64`."""
    try:
        yield
    except LoradexError as error:
        error.message, error.hint = _said(error.message), _said(error.hint)
        if isinstance(error, AdapterInvalid):
            error.problems = tuple(Problem(each.code, _said(each.what), _said(each.fix)) for each in error.problems)
        error.args = (error.message,)
        raise


def _said(text: str) -> str:
    text = _FLAG.sub(_argument, text).replace(NotFound.default_hint, "Give it as a `LoRARequest` with its path")
    return text.replace("Serve with ", "Make the `LLM` with ").replace("serve with ", "make the `LLM` with ")


def _argument(flag: re.Match[str]) -> str:
    name, value = flag[1].replace("-", "_"), flag[2]
    if value is None:
        return f"`{name}`"
    return f"`{name}={value}`" if value.isdigit() else f'`{name}="{value}"`'
