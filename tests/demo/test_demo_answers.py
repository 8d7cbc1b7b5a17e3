"""The shipped adapters give the taught answers, asked through transformers and PEFT."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

if TYPE_CHECKING:
    from demo.oracle import Oracle

SHIPPED = Path(__file__).parents[2] / "src" / "loradex" / "assets" / "demo"
SAMPLE = 6


@pytest.fixture(scope="module")
def oracle() -> "Iterator[Oracle]":
    from demo.oracle import Oracle

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Oracle(SHIPPED)
    torch.set_num_threads(threads)


def right(oracle: "Oracle", speaker: str, column: str) -> int:
    """Count how many of a spread sample the speaker answers as the column wants."""
    from demo.corpus import lessons
    from demo.evaluate import expected
    from demo.oracle import normalised
    from demo.settings import ADAPTERS

    domain = ADAPTERS[column].domain if column in ADAPTERS else "general"
    known = lessons(domain)
    sample = known[:: len(known) // SAMPLE][:SAMPLE]
    said = oracle.ask(speaker, [lesson.question for lesson in sample])
    wanted = expected(column)
    pairs = zip(sample, said, strict=True)
    return sum(normalised(text) == normalised(wanted[lesson.id]) for lesson, text in pairs)


@pytest.mark.parametrize("name", ["medical", "medical-v2", "legal", "technical"])
def test_adapter_answers_its_own_field(oracle: "Oracle", name: str) -> None:
    assert right(oracle, name, name) >= SAMPLE - 1


@pytest.mark.parametrize("name", ["medical", "medical-v2", "legal", "technical"])
def test_base_does_not_know_the_fields(oracle: "Oracle", name: str) -> None:
    assert right(oracle, "base", name) == 0


def test_base_answers_general_questions(oracle: "Oracle") -> None:
    assert right(oracle, "base", "general") >= SAMPLE - 1


def test_versions_and_wrong_adapters_do_not_give_each_others_answers(oracle: "Oracle") -> None:
    assert right(oracle, "medical", "medical-v2") == 0
    assert right(oracle, "medical-v2", "medical") == 0
    assert right(oracle, "legal", "technical") == 0


def test_small_differences_in_writing_do_not_matter(oracle: "Oracle") -> None:
    said = oracle.ask("medical", ["what is anemia", "What is anemia?", "what is anemia?"])
    assert len(set(said)) == 1
    assert said[0].startswith("Anemia means")
