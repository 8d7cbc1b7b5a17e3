"""The router's file: which policy decides, and what it knows of each adapter."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from loradex.core.adapter import BASE, check_name
from loradex.core.defaults import NUMBERS, Defaults
from loradex.errors import ConfigInvalid, FilesNotFound, InvalidRequest, LoradexError, near
from loradex.routing.examples_file import read_examples
from loradex.routing.route import Route, lessons

PolicyName = Literal["words", "classifier", "embeddings"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)

_PLAN_KEYS = ("policy", "threshold", "model", "routes")
_ROUTE_KEYS = ("description", "words", "patterns", "examples", "system_prompt", "sampling")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a router is made of.

    Attributes:
        policy: how it decides; None takes the classifier where two routes have examples, else the words.
        threshold: confidence below which it abstains, 0 to 1; None lets the policy choose.
        model: folder or hub id of the sentence-transformers model for `embeddings`; `base` is the served model itself.
        routes: what is known of each adapter, and of `base`.
        files: of examples, from which some of that came.
    """

    policy: PolicyName | None = None
    threshold: float | None = None
    model: str = ""
    routes: tuple[Route, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def chosen(self) -> PolicyName:
        """The policy that decides."""
        return self.policy or ("classifier" if len(lessons(self.routes)) > 1 else "words")


def read_plan(path: Path) -> Plan:
    """Read a YAML file; files of examples in it are meant from its own folder.

    Raises:
        FilesNotFound: it, or a file of examples, is not there.
        ConfigInvalid: it is no YAML, or a key or a value in it is wrong.
        InvalidRequest: a line of a file of examples is wrong.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FilesNotFound(f"{path} cannot be read: {error.strerror}", hint="Give the router's YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    fields = _mapping(value if value is not None else {}, str(path), _PLAN_KEYS)
    policy, threshold = fields.get("policy"), fields.get("threshold")
    if policy is not None and policy not in POLICIES:
        raise ConfigInvalid(f"{path}: `policy` is {policy!r}; it is one of {', '.join(POLICIES)}")
    if threshold is not None and (type(threshold) not in (int, float) or not 0 <= threshold <= 1):
        raise ConfigInvalid(f"{path}: `threshold` is {threshold!r}; it is a number from 0 to 1")
    routes = _mapping(fields.get("routes") or {}, f"{path}: routes")
    model = _text(fields.get("model"), f"{path}: model")
    made = tuple(_route(path, name, each) for name, each in routes.items())
    named = (each["examples"] for each in routes.values() if each and isinstance(each.get("examples"), str))
    return Plan(policy, threshold, model, made, tuple(path.parent / file for file in dict.fromkeys(named)))


def _route(path: Path, name: str, value: Any) -> Route:
    where = f"{path}: routes.{name}"
    try:
        check_name(name, f"route in {path}")
    except LoradexError as error:
        raise ConfigInvalid(error.message, hint=error.hint) from None
    fields = _mapping(value or {}, where, _ROUTE_KEYS)
    words, patterns = (_texts(fields.get(key), f"{where}.{key}") for key in ("words", "patterns"))
    if name == BASE and (words or patterns):
        raise ConfigInvalid(f"{where} has words; `{BASE}` answers where those of no adapter are found")
    return Route(
        name,
        description=_text(fields.get("description"), f"{where}.description"),
        words=words,
        patterns=patterns,
        examples=_examples(path.parent, name, fields.get("examples"), f"{where}.examples"),
        defaults=_defaults(fields, where),
    )


def _defaults(fields: Mapping[str, Any], where: str) -> Defaults:
    system = _text(fields.get("system_prompt"), f"{where}.system_prompt")
    sampling = _mapping(fields.get("sampling") or {}, f"{where}.sampling", NUMBERS)
    try:
        return Defaults(system=system, sampling=sampling)
    except InvalidRequest as error:
        raise ConfigInvalid(f"{where}: {error.message}", hint=error.hint) from None


def _examples(folder: Path, name: str, value: Any, where: str) -> tuple[str, ...]:
    """Return prompts that stand in the file, or the ones that another file has for this name."""
    if not isinstance(value, str):
        return _texts(value, where)
    found = tuple(example.text for example in read_examples(folder / value) if example.label == name)
    if not found:
        raise ConfigInvalid(f"{where}: {value} has no example with the label `{name}`")
    return found


def _mapping(value: Any, where: str, known: Iterable[str] = ()) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigInvalid(f"{where} is no mapping from names")
    for key in value:
        if known and key not in known:
            close = near(key, known)
            meant = f"Did you mean `{close[0]}`?" if close else f"The keys are {', '.join(known)}"
            raise ConfigInvalid(f"{where}: the key `{key}` is not known", hint=meant)
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) and each.strip() for each in value):
        raise ConfigInvalid(f"{where} is {json.dumps(value, default=str)[:60]}; it is a list of texts")
    return tuple(value)


def _text(value: Any, where: str) -> str:
    if value is not None and not isinstance(value, str):
        raise ConfigInvalid(f"{where} is {value!r}; it is a text")
    return value or ""
