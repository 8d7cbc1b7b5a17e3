from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from loradex.core.defaults import Defaults
from loradex.errors import ConfigInvalid, FilesNotFound, InvalidRequest
from loradex.routing.examples_file import read_examples
from loradex.routing.plan import Plan, read_plan
from loradex.routing.route import Example, Route, with_examples
from loradex.routing.router import make_policy
from loradex.routing.words import Words

PLAN = """
threshold: 0.6
routes:
  medical:
    description: Illness
    words: [doctor, drug]
    patterns: ['\\bfever']
    examples: prompts.jsonl
    system_prompt: You are a medical information assistant.
    sampling: {temperature: 0.2}
  base:
    examples: [Tell me a joke]
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    lines = ('{"text": "What is a fever?", "label": "medical", "by": "me"}', '{"text": "May I?", "label": "legal"}')
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines) + "\n\n")
    (tmp_path / "router.yaml").write_text(PLAN)
    return tmp_path / "router.yaml"


def test_a_file_is_read_whole(plan: Path) -> None:
    found = read_plan(plan)
    assert (found.policy, found.threshold, found.chosen) == (None, 0.6, "classifier")
    assert found.routes == (
        Route(
            "medical",
            description="Illness",
            words=("doctor", "drug"),
            patterns=(r"\bfever",),
            examples=("What is a fever?",),
            defaults=Defaults(system="You are a medical information assistant.", sampling={"temperature": 0.2}),
        ),
        Route("base", examples=("Tell me a joke",)),
    )


def test_words_decide_where_there_are_no_examples(tmp_path: Path) -> None:
    (tmp_path / "router.yaml").write_text("routes: {medical: {words: [doctor]}}")
    assert isinstance(make_policy(read_plan(tmp_path / "router.yaml")), Words)


def test_more_examples_join_the_routes_and_make_new_ones(plan: Path) -> None:
    routes = with_examples(read_plan(plan).routes, [Example("Hm?", "base"), Example("May I?", "legal")])
    assert {route.name: route.examples for route in routes} == {
        "medical": ("What is a fever?",),
        "base": ("Tell me a joke", "Hm?"),
        "legal": ("May I?",),
    }


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("rotues: {}", "the key `rotues` is not known", "Did you mean `routes`?"),
        ("routes: {a: {word: [b]}}", "routes.a: the key `word` is not known", "Did you mean `words`?"),
        ("routes: {a: {words: b}}", 'routes.a.words is "b"; it is a list of texts', ""),
        ("routes: {a: {examples: [1]}}", "routes.a.examples is", ""),
        ("routes: {a b: {}}", "'a b' is not valid", "Use letters"),
        ("routes: {base: {words: [b]}}", "routes.base has words", ""),
        ("routes: [a]", "routes is no mapping", ""),
        ("policy: magic", "`policy` is 'magic'", ""),
        ("threshold: 2", "`threshold` is 2", ""),
        ("routes: {a: {system_prompt: [b]}}", "routes.a.system_prompt is ['b']", ""),
        ("a: [", "is no YAML", ""),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str, hint: str) -> None:
    (tmp_path / "router.yaml").write_text(text)
    with pytest.raises(ConfigInvalid) as caught:
        read_plan(tmp_path / "router.yaml")
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_missing_files_and_labels_are_named(plan: Path) -> None:
    with pytest.raises(FilesNotFound, match=r"nothing\.yaml"):
        read_plan(plan.parent / "nothing.yaml")
    plan.write_text("routes: {technical: {examples: prompts.jsonl}}")
    with pytest.raises(ConfigInvalid, match="no example with the label `technical`"):
        read_plan(plan)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is no JSON"),
        ("[]", "line 2 is no JSON object"),
        ('{"text": "a"}', "line 2 has no `label`"),
        ('{"text": " ", "label": "a"}', "line 2 has no `text`"),
        ('{"text": "a", "label": "a b"}', "line 2"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"text": "a", "label": "b"}}\n{line}\n')
    with pytest.raises(InvalidRequest, match=message):
        read_examples(path)


def test_an_empty_file_of_examples_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text("\n")
    with pytest.raises(InvalidRequest, match="has no examples"):
        read_examples(tmp_path / "prompts.jsonl")


def test_embeddings_need_a_model() -> None:
    routes = (Route("a", examples=("b",)), Route("base", examples=("c",)))
    with pytest.raises(ConfigInvalid, match="needs a model"):
        make_policy(Plan("embeddings", routes=routes))
    with pytest.raises(ConfigInvalid, match="none is asked here"):
        make_policy(Plan("embeddings", model="base", routes=routes))


def test_vectors_of_the_base_decide_and_all_pointing_one_way_does_no_harm() -> None:
    def encode(texts: Sequence[str]) -> np.ndarray:
        """As a language model's: a large part that all have in common, and a small one that tells them apart."""
        return np.array([[100.0, 100.0 + text.count("x"), 100.0 + text.count("y")] for text in texts])

    routes = (Route("ex", examples=("x", "xx", "axx")), Route("base", examples=("y", "yy", "ayy")))
    found = make_policy(Plan("embeddings", model="base", routes=routes, threshold=0.5), encode)
    assert [found.decide(text).adapter for text in ("xbx", "yby")] == ["ex", "base"]


@pytest.mark.parametrize("sampling", ["{temperatur: 1}", "{temperature: 9}", "{temperature: warm}", "[1]"])
def test_a_domains_sampling_is_checked_when_the_file_is_read(tmp_path: Path, sampling: str) -> None:
    (tmp_path / "router.yaml").write_text(f"routes: {{a: {{words: [b], sampling: {sampling}}}}}")
    with pytest.raises(ConfigInvalid, match=r"routes\.a"):
        read_plan(tmp_path / "router.yaml")
