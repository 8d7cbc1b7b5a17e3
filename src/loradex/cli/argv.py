"""Spellings that users bring from elsewhere, rewritten before the command line is parsed."""

from __future__ import annotations

from collections.abc import Sequence

_SEVERAL = "--lora-modules"
_GLOBAL = ("--json", "--quiet", "-q")


def rewritten(argv: Sequence[str]) -> list[str]:
    """Return the arguments as our parser wants them.

    Underscores in option names become dashes (`--max_loras`), `--lora-modules a=1 b=2` takes several values as in vLLM,
    and `--json` may stand before the command. What follows `--` is left alone.
    """
    cut = argv.index("--") if "--" in argv else len(argv)
    words, rest = [_dashed(word) for word in argv[:cut]], list(argv[cut:])
    early = 0
    while early < len(words) and words[early] in _GLOBAL:
        early += 1
    if early < len(words):
        words = words[early:] + words[:early]
    return _repeated(words) + rest


def _dashed(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, sign, value = word.partition("=")
    return name.replace("_", "-") + sign + value


def _repeated(words: Sequence[str]) -> list[str]:
    """Name `--lora-modules` again before each further value."""
    out: list[str] = []
    taking = False
    for word in words:
        value = "=" in word or word.startswith("{")
        taking = word == _SEVERAL or (taking and value and not word.startswith("-"))
        if taking and word != _SEVERAL and out[-1] != _SEVERAL:
            out.append(_SEVERAL)
        out.append(word)
    return out
