from __future__ import annotations

from pathlib import Path

import pytest

from loradex.routing.classifier import Classifier
from loradex.routing.examples_file import read_examples
from loradex.routing.plan import read_plan
from loradex.routing.route import with_examples

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="session")
def trained() -> Classifier:
    """A classifier of the examples that routing is measured with."""
    routes = read_plan(BENCHMARKS / "routing.yaml").routes
    return Classifier(with_examples(routes, read_examples(BENCHMARKS / "routing_examples.jsonl")))
