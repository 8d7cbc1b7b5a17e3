"""An engine directory: a base model made ready for this processor once, with what it may be asked.

    engine.json          the manifest: what is in the other files, for which processor, and the limits
    engine.safetensors   every weight in the engine's own layout, at addresses from which it is computed
    config.json, ...     configuration and tokenizer of the model

Only the manifest is read here, without tensors: a directory's limits count for whoever serves it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from loradex.adapters.base_model import BUILT
from loradex.engine.config import EngineConfig
from loradex.errors import ConfigInvalid

FORMAT: Final = 1
"""Goes up whenever a directory is written in another way; others are refused."""

WEIGHTS: Final = "engine.safetensors"


@dataclass(frozen=True, slots=True)
class Limits:
    """What an export or an engine directory was made for; None leaves it to who serves.

    Attributes:
        max_lora_rank: adapters above it are refused.
        max_batch_size: requests computed in one step.
        max_kv_cache_capacity: tokens of prompt and answer together.
    """

    max_lora_rank: int | None = None
    max_batch_size: int | None = None
    max_kv_cache_capacity: int | None = None

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> Limits:
        """Return the limits in a file's JSON; what it does not name is None."""
        return cls(**{each.name: written.get(each.name) for each in fields(cls)})

    def under(self, other: Limits) -> Limits:
        """Return these, with those of `other` where none is said here."""
        said = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(other, **{name: value for name, value in said.items() if value is not None})


_SETTINGS: Final = (
    ("max_lora_rank", "max_lora_rank", "--max-lora-rank"),
    ("max_batch_size", "max_num_seqs", "--max-batch-size"),
    ("max_kv_cache_capacity", "max_model_len", "--max-kv-cache-capacity"),
)
"""Each limit, the setting that it bounds, and the option of `loradex build`."""


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of an engine directory; None for any other folder.

    Raises:
        ConfigInvalid: it is damaged, or of another version.
    """
    path = folder / BUILT
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigInvalid(f"{path} cannot be read: {error}", hint=rebuild(folder)) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        made = found.get("loradex", "an unknown version") if isinstance(found, dict) else "something else"
        raise ConfigInvalid(f"The engine in {folder} was built by {made}, in another format", hint=rebuild(folder))
    return found


def rebuild(folder: Path, manifest: Mapping[str, Any] | None = None) -> str:
    """Return the command that makes an engine directory again."""
    source = (manifest or {}).get("built_from") or "EXPORT"
    return f"Build it again: loradex build --export-dir {source} --engine-dir {folder}"


def within(config: EngineConfig) -> EngineConfig:
    """Return the settings as the engine directory that they name allows; of any other model, as they are.

    Raises:
        ConfigInvalid: the manifest cannot be read, or a setting that was given goes beyond it.
    """
    folder = Path(config.model).expanduser()
    manifest = read_manifest(folder) if config.model else None
    if manifest is None:
        return config
    limits = Limits.read(manifest["limits"])
    usual = EngineConfig()
    changed: dict[str, Any] = {"device": manifest["device"] if config.device == "auto" else config.device}
    for limit, setting, option in _SETTINGS:
        most, given = getattr(limits, limit), getattr(config, setting)
        if most is None or (given is not None and given <= most):
            continue
        if given != getattr(usual, setting):
            raise ConfigInvalid(
                f"`{setting}` is {given}, and the engine in {folder} was built for {most}",
                hint=f"Ask for {most} or less. {rebuild(folder, manifest)} {option} {given}",
                param=setting,
            )
        changed[setting] = most
    for setting in ("dtype", "quantization"):
        given, is_so = getattr(config, setting), manifest[setting]
        if given not in (getattr(usual, setting), is_so):
            raise ConfigInvalid(
                f"`{setting}` is {given}, and the engine in {folder} was built with {is_so}",
                hint=f"Leave it out. {rebuild(folder, manifest)} --{setting} {given}",
                param=setting,
            )
    return replace(config, **changed)
