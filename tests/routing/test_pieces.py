from __future__ import annotations

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from loradex.routing.examples_file import read_examples
from loradex.routing.pieces import Pieces, learn_pieces
from tests.routing.conftest import BENCHMARKS

EXAMPLES = [example.text for example in read_examples(BENCHMARKS / "routing_examples.jsonl")]


@pytest.fixture(scope="module")
def pieces() -> Pieces:
    return learn_pieces(EXAMPLES)


def test_each_view_is_what_scikit_learn_makes_of_it(pieces: Pieces) -> None:
    texts = [*EXAMPLES, "words words words, and symptoms of words"]
    found, before = learn_pieces(texts).matrix(texts).toarray(), 0
    for view in learn_pieces(texts).views:
        oracle = TfidfVectorizer(analyzer=lambda text, view=view: list(view.split(text)), sublinear_tf=True)
        theirs = oracle.fit_transform(texts).toarray()
        order = [oracle.vocabulary_[part] for part in view.index]
        np.testing.assert_allclose(found[:, before : before + len(order)], theirs[:, order], atol=1e-12)
        before += len(order)
    assert before == found.shape[1]


def test_a_text_that_is_hardly_known_gets_a_short_vector(pieces: Pieces) -> None:
    def length(text: str) -> float:
        return float(np.linalg.norm(pieces.vector(text)[1]))

    assert length(EXAMPLES[0]) == pytest.approx(2**0.5)  # two views, each of length 1
    assert 0 < length("Early signs of xyzzy, plugh and frobnication") < 1
    assert length("⟡⟡⟡") == length("") == 0


def test_of_grammar_only_whole_words_count(pieces: Pieces) -> None:
    parts, words = pieces.views
    assert "diabe" in parts.index
    assert {"what", "should"} <= set(words.index)
    assert list(parts.split("what should the")) == []
    assert list(parts.split("Flu")) == [" fl", "flu", "lu ", " flu", "flu ", " flu "]
