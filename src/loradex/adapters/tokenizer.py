"""Tokens that an adapter adds to the base's tokenizer, as PEFT's users save them: in a tokenizer beside the adapter.

Nothing of that tokenizer is used but data: which tokens it adds and under which ids, which of them ends an answer, and
the chat template. They are put onto the base's own tokenizer, and lie in the store as one small file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from loradex.adapters.keys import EMBEDDINGS
from loradex.adapters.vocabulary import AddedToken, Vocabulary
from loradex.errors import AdapterInvalid, FilesNotFound, Problem

FILE = "vocabulary.json"
"""Its name in the store."""

TOKENIZER, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
FILES: Mapping[str, int] = {FILE: 16 << 20, TOKENIZER: 64 << 20, SETTINGS: 16 << 20, TEMPLATE: 1 << 20}
"""What is read, with the most bytes that each may have."""

MAX_TOKENS = 1 << 16

_FLAGS = ("special", "normalized", "lstrip", "rstrip", "single_word")


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """Return what tells of added tokens in an adapter's folder, by name; nothing where there is no tokenizer."""
    found = {name: folder / name for name in FILES if (folder / name).is_file()}
    return found if FILE in found or TOKENIZER in found else {}


def trains_tokens(tensors: Iterable[str]) -> bool:
    """Whether tensors of these names are for an embedding or an output head: else added tokens mean nothing."""
    return any(not EMBEDDINGS.isdisjoint(name.split(".")) for name in tensors)


def read_vocabulary(files: Mapping[str, Path]) -> Vocabulary | None:
    """Read what the named files of a tokenizer add; None where there are none.

    Raises:
        FilesNotFound: one cannot be read.
        AdapterInvalid: one is no such file.
    """
    if FILE in files:
        stored = _json(files, FILE)
        return Vocabulary(_tokens(stored.get("tokens"), FILE), _text(stored, "eos"), _text(stored, "chat_template"))
    if TOKENIZER not in files:
        return None
    tokens = _tokens(_json(files, TOKENIZER).get("added_tokens"), TOKENIZER)
    settings = _json(files, SETTINGS) if SETTINGS in files else {}
    template = _bytes(files, TEMPLATE).decode("utf-8", "replace") if TEMPLATE in files else _template(settings)
    return Vocabulary(tokens, _text(settings, "eos_token"), template)


def _tokens(found: Any, name: str) -> tuple[AddedToken, ...]:
    if not isinstance(found, list) or len(found) > MAX_TOKENS:
        _refuse(name, f"has no list of up to {MAX_TOKENS} added tokens")
    tokens = []
    for each in found:
        flags = {flag: each.get(flag, False) for flag in _FLAGS} if isinstance(each, dict) else {}
        number, content = (each.get("id"), each.get("content")) if flags else (None, None)
        if type(number) is not int or not 0 <= number < 2**31 or not all(type(flag) is bool for flag in flags.values()):
            _refuse(name, f"has an added token that is none: {str(each)[:80]}")
        if not isinstance(content, str) or not 0 < len(content) <= 1024 or not _is_text(content):
            _refuse(name, f"has an added token without a text: {str(each)[:80]!r}")
        tokens.append(AddedToken(number, content, **flags))
    if len({token.id for token in tokens}) != len(tokens) or len({token.content for token in tokens}) != len(tokens):
        _refuse(name, "has an added token twice")
    return tuple(sorted(tokens, key=lambda token: token.id))


def _template(settings: Mapping[str, Any]) -> str:
    """Return the chat template in older settings: a text, or several of which one is the default."""
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = [each for each in found if isinstance(each, dict) and each.get("name") == "default"]
        found = named[0].get("template") if named else None
    return found if isinstance(found, str) and _is_text(found) else ""


def _text(settings: Mapping[str, Any], name: str) -> str:
    found = settings.get(name)
    found = found.get("content") if isinstance(found, dict) else found
    return found if isinstance(found, str) and _is_text(found) else ""


def _is_text(value: str) -> bool:
    return value == value.encode("utf-8", "replace").decode("utf-8")


def _json(files: Mapping[str, Path], name: str) -> dict[str, Any]:
    try:
        found = json.loads(_bytes(files, name).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        _refuse(name, f"is not JSON: {error}")
    if not isinstance(found, dict):
        _refuse(name, "holds no JSON object")
    return found


def _bytes(files: Mapping[str, Path], name: str) -> bytes:
    try:
        with files[name].open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            content = file.read(size) if size <= FILES[name] else None
    except OSError as error:
        raise FilesNotFound(f"{files[name]} cannot be read: {error.strerror or error}") from error
    if content is None:
        _refuse(name, f"has more than {FILES[name] >> 20} MB")
    return content


def _refuse(name: str, what: str) -> NoReturn:
    fix = "Save the tokenizer again with `save_pretrained`, or remove it from the adapter's folder"
    problem = Problem("bad_tokenizer", f"{name} {what}", fix)
    raise AdapterInvalid("The tokenizer beside the adapter cannot be read", [problem])
