"""Spellings that users bring from elsewhere, rewritten before the command line is parsed."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CAPITALS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SEVERAL = "--lora-modules"
_GLOBAL = ("--json", "--quiet", "-q")
_SETTINGS = "--extra-llm-api-options"
_ROUTE = ("ask", "evaluate", "--help", "-h")


def rewritten(argv: Sequence[str]) -> list[str]:
    """Return the arguments as our parser wants them.

    Underscores and capitals in option names become dashes (`--max_loras`, TensorRT-Edge-LLM's `--maxBatchSize`),
    `--lora-modules a=1 b=2` takes several values as in vLLM, TensorRT-LLM's `--extra_llm_api_options` is `--config`,
    `--json` may stand before the command, and `route TEXT` is `route ask TEXT`. What follows `--` is left alone.
    """
    cut = argv.index("--") if "--" in argv else len(argv)
    words, rest = [_dashed(word) for word in argv[:cut]], list(argv[cut:])
    early = 0
    while early < len(words) and words[early] in _GLOBAL:
        early += 1
    if early < len(words):
        words = words[early:] + words[:early]
    if words[:1] == ["route"] and len(words + rest) > 1 and (words + rest)[1] not in _ROUTE:
        words.insert(1, "ask")
    return _repeated(words, bare=words[:2] == ["bench", "serve"]) + rest


def _dashed(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, sign, value = word.partition("=")
    name = _CAPITALS.sub("-", name).replace("_", "-").lower()
    return ("--config" if name == _SETTINGS else name) + sign + value


def _repeated(words: Sequence[str], *, bare: bool) -> list[str]:
    """Name `--lora-modules` again before each further value; `bare` ones are names alone, as in `vllm bench serve`."""
    out: list[str] = []
    taking = False
    for word in words:
        value = bare or "=" in word or word.startswith("{")
        taking = word == _SEVERAL or (taking and value and not word.startswith("-"))
        if taking and word != _SEVERAL and out[-1] != _SEVERAL:
            out.append(_SEVERAL)
        out.append(word)
    return out
