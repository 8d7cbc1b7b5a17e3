"""`adapter_config.json`: rank and scaling of every module, as PEFT would take them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradex.adapters.files import MAX_CONFIG_BYTES
from loradex.adapters.options import TYPES, refused
from loradex.adapters.patterns import Patterns, is_number, is_rank
from loradex.errors import AdapterInvalid, FilesNotFound, Problem


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The part of a PEFT configuration that acts at inference.

    Attributes:
        r, alpha: rank and alpha of modules that no pattern names.
        use_rslora: scale by `alpha / sqrt(rank)` instead of `alpha / rank`.
        ranks, alphas: what the patterns say.
        base_model: what it calls its base, or None.
        target_modules: what training was told to adapt; the tensors in the file are what counts.
        use_dora, lora_bias: every pair has a magnitude, or a bias.
        target_parameters: ends of the paths of stacked experts' weights that have pairs.
        modules_to_save: ends of the paths of modules that are replaced whole.
        token_indices: ids of the tokens whose embeddings were trained, by the end of a module's path; of the embedding
            under an empty one.
        invocation: token ids from which on the adapter acts; empty: from the beginning.
        raw: the whole file.
    """

    r: int
    alpha: float
    use_rslora: bool
    ranks: Patterns
    alphas: Patterns
    base_model: str | None
    target_modules: str | tuple[str, ...]
    use_dora: bool
    lora_bias: bool
    target_parameters: tuple[str, ...]
    modules_to_save: tuple[str, ...]
    token_indices: Mapping[str, tuple[int, ...]]
    invocation: tuple[int, ...]
    raw: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> LoraConfig:
        """Read and check a configuration.

        Raises:
            FilesNotFound: the file cannot be read.
            AdapterInvalid: it is no configuration, or asks for what is not served; lists every reason.
        """
        config, problems = read_config(path)
        if problems or config is None:
            raise AdapterInvalid(f"{path} cannot be served", problems)
        return config

    def rank(self, module: str) -> int:
        """Return the rank that the configuration gives to a module."""
        return int(self.ranks.get(module, self.r))

    def scaling(self, module: str) -> float:
        """Return the factor on the low-rank product of a module."""
        rank = self.rank(module)
        return self.alphas.get(module, self.alpha) / (math.sqrt(rank) if self.use_rslora else rank)


def read_config(path: Path) -> tuple[LoraConfig | None, tuple[Problem, ...]]:
    """Read a configuration and everything wrong with it; None where not even ranks are known.

    Raises:
        FilesNotFound: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise FilesNotFound(f"{path} cannot be read: {error.strerror or error}") from error
    return parse_config(content)


def parse_config(content: bytes) -> tuple[LoraConfig | None, tuple[Problem, ...]]:
    """Parse the bytes of a configuration, as `read_config` does."""
    if len(content) > MAX_CONFIG_BYTES:
        what = f"adapter_config.json is larger than {MAX_CONFIG_BYTES >> 20} MB"
        return None, (Problem("bad_config", what, "Give the file that PEFT wrote"),)
    try:
        raw = json.loads(content.decode("utf-8-sig"))
        # It is shown to clients later: nothing in it may be beyond JSON, such as NaN, or beyond UTF-8.
        json.dumps(raw, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except json.JSONDecodeError as error:
        what = f"adapter_config.json is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        return None, (Problem("bad_config", what, "Correct that line, or save the adapter again"),)
    except (ValueError, RecursionError) as error:
        what = f"adapter_config.json is not JSON: {error}"
        return None, (Problem("bad_config", what, "Save the adapter again"),)
    if not isinstance(raw, dict):
        what = f"adapter_config.json holds a {type(raw).__name__}, not an object"
        return None, (Problem("bad_config", what, "Give the file that PEFT wrote"),)
    return _read(raw)


def _read(raw: dict[str, Any]) -> tuple[LoraConfig | None, tuple[Problem, ...]]:
    kind = raw.get("peft_type")
    if kind != "LORA":
        what = f"`peft_type` is {kind!r}; only LORA is served" if kind else "`peft_type` is missing"
        fix = "Convert or train it as LoRA" if kind else 'Add `"peft_type": "LORA"` if it is a LoRA adapter'
        return None, (Problem("unsupported_type", what, fix),)
    problems = refused(raw)
    wrong = [name for name, (fits, _) in TYPES.items() if not fits(raw.get(name))]
    problems += [_wrong(name, raw[name], TYPES[name][1]) for name in wrong]
    r, alpha = raw.get("r", 8), raw.get("lora_alpha", 8)
    if not is_rank(r):
        problems.append(_wrong("r", r, "a whole number above 0"))
    if not is_number(alpha):
        problems.append(_wrong("lora_alpha", alpha, "a number"))
    patterns = {}
    for name, whole in (("rank_pattern", True), ("alpha_pattern", False)):
        patterns[name], found = Patterns.parse(name, {} if name in wrong else raw.get(name) or {}, whole)
        problems += found
    if any(problem.code == "bad_config" for problem in problems):
        return None, tuple(problems)
    targets = raw.get("target_modules") or ()
    config = LoraConfig(
        r=r,
        alpha=float(alpha),
        use_rslora=bool(raw.get("use_rslora")),
        ranks=patterns["rank_pattern"],
        alphas=patterns["alpha_pattern"],
        base_model=raw.get("base_model_name_or_path") or None,
        target_modules=targets if isinstance(targets, str) else tuple(targets),
        use_dora=bool(raw.get("use_dora")),
        lora_bias=bool(raw.get("lora_bias")),
        target_parameters=tuple(raw.get("target_parameters") or ()),
        modules_to_save=_names(raw.get("modules_to_save")),
        token_indices=_tokens(raw.get("trainable_token_indices")),
        invocation=tuple(raw.get("alora_invocation_tokens") or ()),
        raw=raw,
    )
    return config, tuple(problems)


def _names(value: str | list[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _tokens(value: dict[str, list[int]] | list[int] | None) -> dict[str, tuple[int, ...]]:
    table = value if isinstance(value, dict) else {"": value} if value else {}
    return {name: tuple(tokens) for name, tokens in table.items()}


def _wrong(name: str, value: Any, wanted: str) -> Problem:
    what = f"`{name}` in adapter_config.json is {str(value)[:60]!r}; it must be {wanted}"
    return Problem("bad_config", what, "Correct it, or save the adapter again")
