"""How good the router is on prompts of many domains, which its method and thresholds were chosen on.

`routing_domains.jsonl` has 40 examples and 40 other prompts of each of eight domains, and general ones. A quarter of
the prompts are hard (`hard`): few keywords, other languages, words of another domain; general ones with a word of a
domain (`trap`). Every three of the domains make one world: 160 examples, and 160 prompts of which a quarter belong to
the base. General ones that are like a domain (`about`) are left out where it is in the world.

    python benchmarks/routing.py                     # the classifier, all 56 worlds
    python benchmarks/routing.py --model FOLDER      # embeddings of a sentence-transformers model
    python benchmarks/routing.py --thresholds        # and what others than the usual threshold give
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import numpy as np

from loradex.core.adapter import BASE
from loradex.routing.classifier import Classifier
from loradex.routing.decision import Decision
from loradex.routing.embeddings import Embeddings, Floats, sentence_encoder
from loradex.routing.route import Example, Route, with_examples

Row = dict[str, Any]
TEXTS: list[Row] = [
    json.loads(line) for line in Path(__file__).with_name("routing_domains.jsonl").open(encoding="utf-8")
]
DOMAINS = sorted({row["domain"] for row in TEXTS} - {"general"})
EXAMPLES, EASY, HARD = 40, 30, 10


@dataclass(frozen=True, slots=True)
class World:
    """Three domains and general prompts: what a router learns from, and what it is asked."""

    examples: list[Example]
    prompts: list[Example]


def worlds() -> Iterator[World]:
    """Yield one world for every three domains, always the same."""
    for seed, names in enumerate(itertools.combinations(DOMAINS, 3)):
        own = [row for row in TEXTS if row["domain"] in names]
        general = [row for row in TEXTS if row["domain"] == "general" and _general_in(row, names)]
        random.Random(seed).shuffle(general)
        prompts = [row for row in general if row["part"] == "prompt"]
        easy, hard = ([row for row in prompts if row.get("hard", False) is kind] for kind in (False, True))
        taught = [row for row in general if row["part"] == "example"][:EXAMPLES]
        yield World(
            [_example(row) for row in (*own, *taught) if row["part"] == "example"],
            [_example(row) for row in (*own, *easy[:EASY], *hard[:HARD]) if row["part"] == "prompt"],
        )


def measure(decisions: list[Decision], prompts: list[Example], threshold: float | None) -> tuple[float, float, float]:
    """Return accuracy, routed precision and coverage; a threshold decides anew from the scores."""
    chosen = [found.adapter if threshold is None else _choice(found, threshold) for found in decisions]
    routed = [name == prompt.label for name, prompt in zip(chosen, prompts, strict=True) if name != BASE]
    right = sum(name == prompt.label for name, prompt in zip(chosen, prompts, strict=True))
    return right / len(prompts), sum(routed) / len(routed) if routed else 1.0, len(routed) / len(prompts)


def main() -> None:
    """Measure and print means and their spread over the worlds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id of a sentence-transformers model: measure embeddings")
    parser.add_argument("--thresholds", action="store_true", help="what other thresholds give")
    chosen = parser.parse_args()
    make = _embeddings(chosen.model) if chosen.model else Classifier
    answers = []
    for world in worlds():
        policy = make(with_examples([], world.examples))
        answers.append(([policy.decide(prompt.text) for prompt in world.prompts], world.prompts))
    print(f"{len(answers)} worlds\nthreshold  accuracy       routed precision  coverage")
    for threshold in (None, *((step / 20 for step in range(20)) if chosen.thresholds else ())):
        found = [measure(decisions, prompts, threshold) for decisions, prompts in answers]
        said = "   ".join(f"{mean(each):.3f} ±{pstdev(each):.3f}" for each in zip(*found, strict=True))
        print(f"{'usual' if threshold is None else f'{threshold:.2f}':9}  {said}")


def _embeddings(model: str) -> Callable[[Sequence[Route]], Embeddings]:
    """Return what makes the policy; every text is encoded once for all worlds."""
    texts = [row["text"] for row in TEXTS]
    vectors = dict(zip(texts, sentence_encoder(model)(texts), strict=True))

    def encode(wanted: Sequence[str]) -> Floats:
        return np.array([vectors[text] for text in wanted])

    return lambda routes: Embeddings(routes, encode)


def _general_in(row: Row, names: tuple[str, ...]) -> bool:
    return row.get("about") not in names and row.get("trap", names[0]) in names


def _example(row: Row) -> Example:
    return Example(row["text"], BASE if row["domain"] == "general" else row["domain"])


def _choice(found: Decision, threshold: float) -> str:
    best = max(found.scores, key=found.scores.__getitem__)
    return best if found.scores[best] >= threshold else BASE


if __name__ == "__main__":
    main()
