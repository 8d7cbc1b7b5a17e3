"""`loradex route`: which adapter should answer a prompt, and how good the router is at telling."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loradex.cli.command import TARGET, Flag, command
from loradex.cli.output import Output, grid
from loradex.cli.target import Target
from loradex.client.decision import Decision
from loradex.errors import ConfigInvalid
from loradex.routing.decision import Decision as Decided
from loradex.routing.evaluate import Evaluation, evaluate
from loradex.routing.examples_file import read_examples
from loradex.routing.plan import Plan, PolicyName, read_plan
from loradex.routing.route import with_examples
from loradex.routing.router import make_policy
from loradex.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loradex.client.client import Client

app = typer.Typer(name="route", help="Choose the adapter for a prompt.", no_args_is_help=True, rich_markup_mode=None)

ROUTER = (Flag("router", ("--router",), "The router's YAML file.", "FILE"),)

Policy = Annotated[PolicyName | None, typer.Option("--policy", help="How to decide; else as the router's file says.")]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", metavar="P", min=0, max=1, help="Confidence that an adapter needs; else the usual."),
]
Model = Annotated[
    str | None, typer.Option("--model", metavar="MODEL", help="For embeddings: a sentence-transformers model.")
]
Examples = Annotated[
    Path | None, typer.Option("--examples", metavar="FILE", help="JSON lines of text and label to learn from as well.")
]


@command(
    app,
    "ask",
    flags=(*ROUTER, *TARGET),
    examples=('loradex route "Can my landlord keep my deposit?"', 'loradex route ask "Fix my code" --policy words'),
)
def ask(
    out: Output,
    settings: Settings,
    target: Target,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The prompt.", show_default=False)],
    examples: Examples = None,
    policy: Policy = None,
    threshold: Threshold = None,
    model: Model = None,
) -> None:
    """Say which adapter should answer a prompt, how sure that is, and why.

    `loradex route TEXT` is short for it. Nothing is answered. The running server is asked, unless a router's file or
    examples are given here.
    """
    if settings.router is None and examples is None:
        with target.client() as client:
            found = client.route(text)
    else:
        plan = _plan(settings, examples, policy, threshold, model)
        found = Decision(**asdict(make_policy(plan).decide(text)), policy=plan.chosen)
    facts = [("adapter", found.adapter), ("score", f"{found.score:.2f}"), ("because", found.reason)]
    out.data(found, grid(("", ""), facts), [found.adapter])


@command(
    app,
    "evaluate",
    flags=(*ROUTER, *TARGET),
    examples=(
        "loradex route evaluate prompts.jsonl --examples examples.jsonl",
        "loradex route evaluate prompts.jsonl --policy words --router routes.yaml --json",
    ),
)
def evaluate_(
    out: Output,
    settings: Settings,
    target: Target,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON lines of text and label; base is none.", show_default=False)
    ],
    examples: Examples = None,
    policy: Policy = None,
    threshold: Threshold = None,
    model: Model = None,
) -> None:
    """Measure a router on prompts whose adapter is known.

    Examples train the router for this run only. Prompts that it has learned from say nothing of how good it is. Without
    a router's file or examples, the router of the running server is measured, the way to it included.
    """
    prompts = read_examples(file)
    if settings.router is None and examples is None and (settings.url or target.answers()):
        with target.client() as client:
            served = _Served(client)
            found = evaluate(served, prompts, time.perf_counter)
        value = {"policy": served.policy, "training_seconds": None, **asdict(found)}
        out.data(value, [_summary(served.policy, found), "", _confusion(found)], [f"{found.accuracy:.4f}"])
        return
    plan = _plan(settings, examples, policy, threshold, model)
    began = time.perf_counter()
    router = make_policy(plan)
    seconds = time.perf_counter() - began
    found = evaluate(router, prompts, time.perf_counter)
    value = {"policy": plan.chosen, "training_seconds": seconds, **asdict(found)}
    out.data(
        value,
        [_summary(f"{plan.chosen}, ready in {seconds:.2f} s", found), "", _confusion(found)],
        [f"{found.accuracy:.4f}"],
    )


def _plan(
    settings: Settings, examples: Path | None, policy: PolicyName | None, threshold: float | None, model: str | None
) -> Plan:
    if settings.router is None and examples is None:
        raise ConfigInvalid(
            "There is nothing to route by",
            hint="Name the router's file with `--router FILE`, or give `--examples FILE`",
        )
    plan = read_plan(settings.router) if settings.router is not None else Plan()
    return replace(
        plan,
        policy=policy or plan.policy,
        threshold=plan.threshold if threshold is None else threshold,
        model=plan.model if model is None else model,
        routes=with_examples(plan.routes, read_examples(examples)) if examples is not None else plan.routes,
    )


class _Served:
    """The router of a server as a policy."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.policy = ""

    def decide(self, text: str) -> Decided:
        """Ask it."""
        found = self._client.route(text)
        self.policy = found.policy
        return Decided(found.adapter, found.score, found.reason, found.scores)


def _summary(policy: str, found: Evaluation) -> RenderableType:
    precision = "nothing was routed" if found.routed_precision is None else f"{found.routed_precision:.3f}"
    facts = [
        ("policy", policy),
        ("prompts", str(found.prompts)),
        ("accuracy", f"{found.accuracy:.3f}"),
        ("routed_precision", precision),
        ("coverage", f"{found.coverage:.3f}"),
        ("latency", f"p50 {found.latency_ms['p50']:.3f} ms, p99 {found.latency_ms['p99']:.3f} ms"),
    ]
    return grid(("", ""), facts)


def _confusion(found: Evaluation) -> RenderableType:
    columns = next(iter(found.confusion.values()))
    rows = [(label, *(str(row[name]) for name in columns)) for label, row in found.confusion.items()]
    return grid(("label \\ decision", *columns), rows)
