"""The demo model that ships with the package: found, checked, and its questions read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradex.errors import AdapterDamaged, FilesNotFound

FOLDER = Path(__file__).parents[1] / "assets" / "demo"

GENERAL = "general"
"""The field of questions that no expert should answer."""

EXPERTS = ("medical", "legal", "technical")
_REINSTALL = "Install again: pip install --force-reinstall loradex"


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its field, and the answer that each speaker of that field was taught."""

    domain: str
    text: str
    expected: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DemoAssets:
    """The demo's base model, its adapters and questions."""

    folder: Path
    questions: tuple[Question, ...]

    @property
    def base(self) -> Path:
        """Folder of the base model."""
        return self.folder / "base"

    def adapter(self, name: str) -> Path:
        """Folder of an adapter."""
        return self.folder / "adapters" / name

    def examples(self, domain: str) -> tuple[str, ...]:
        """Return the questions of a field: prompts that its adapter should answer."""
        return tuple(each.text for each in self.questions if each.domain == domain)

    def about(self, domain: str) -> Question:
        """Return the first question of a field."""
        return next(each for each in self.questions if each.domain == domain)


def read_assets(folder: Path = FOLDER) -> DemoAssets:
    """Find the shipped files and check each against its checksum.

    Raises:
        FilesNotFound: they are not there.
        AdapterDamaged: a file differs from its checksum.
    """
    try:
        sums = (folder / "SHA256SUMS").read_text(encoding="utf-8")
        questions = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise FilesNotFound(f"The demo model is not at {folder}", hint=_REINSTALL) from error
    for line in sums.splitlines():
        digest, name = line.split(maxsplit=1)
        path = folder / name.lstrip("*")
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise AdapterDamaged(f"`{path}` differs from its checksum", hint=_REINSTALL)
    return DemoAssets(folder, tuple(_questions(questions)))


def _questions(read: Mapping[str, Any]) -> list[Question]:
    return [
        Question(domain, each["question"], each["expected"])
        for domain, listed in read["domains"].items()
        for each in listed
    ]
