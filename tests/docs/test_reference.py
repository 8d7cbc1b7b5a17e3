"""The reference pages say what the code does now."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from loradex import errors
from loradex.settings import KEYS, variable

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_up_to_date(generator: ModuleType) -> None:
    assert list(generator.stale()) == [], "run `make docs`"


def test_every_setting_has_a_meaning(generator: ModuleType) -> None:
    page = generator.settings_page()
    for key in KEYS:
        row = re.search(rf"^\| `{re.escape(key)}` \| `{variable(key)}` \|.*\| (.+) \|$", page, re.MULTILINE)
        assert row is not None, key


def test_every_error_has_a_fix_and_a_place_in_the_reference(generator: ModuleType) -> None:
    page = generator.errors_page()
    drawn = errors.__doc__ or ""
    for cls in generator._classes(errors.LoradexError):
        assert cls.default_hint
        assert f"| {cls.__name__} | `{cls.code}` |" in page
        assert re.search(rf"\b{cls.__name__}\b", drawn), f"{cls.__name__} is not in the tree that errors.py draws"


def test_codes_are_unique(generator: ModuleType) -> None:
    codes = [cls.code for cls in generator._classes(errors.LoradexError)]
    assert len(codes) == len(set(codes))


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith("mailto:"):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
