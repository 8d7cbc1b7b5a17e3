"""Make the demo model: tokenizer, base, adapters, evaluation, checksums."""

import argparse
import importlib.metadata
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from demo.artifacts import showcase, write_card, write_json, write_sums
from demo.base import train_base
from demo.chance import fixed
from demo.corpus import sentences
from demo.evaluate import DTYPES, ROWS, SHIPPED, drawn, evaluate, shortfalls
from demo.loop import Report
from demo.settings import QUICK, Settings
from demo.tokenizer import train_tokenizer
from demo.workers import train_adapters

LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors")


def watcher(progress: Progress, title: str) -> Report:
    """Show one training stage as a bar with its loss."""
    task = progress.add_task(title, total=None, note="")

    def report(step: int, steps: int, loss: float) -> None:
        progress.update(task, completed=step, total=steps, note=f"loss {loss:.3f}")

    return report


def counter(progress: Progress, title: str, total: int) -> Callable[[], None]:
    """Show one stage that only counts."""
    task = progress.add_task(title, total=total, note="")
    return lambda: progress.update(task, advance=1)


def emptied(folder: Path) -> None:
    """Remove the results of an earlier run, and nothing else that may lie in the folder."""
    for name in ("base", "adapters"):
        shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


def train(folder: Path, settings: Settings, progress: Progress) -> dict[str, float]:
    """Train everything into a folder and return the last loss of each stage."""
    done = counter(progress, "tokenizer", 1)
    tokenizer = train_tokenizer(sentences(), settings.shape.vocabulary, settings.shape.positions)
    done()
    base = folder / "base"
    losses = {"base": train_base(tokenizer, base, settings, watcher(progress, "base"))}
    return losses | train_adapters(base, folder / "adapters", settings, lambda name: watcher(progress, name))


def run(folder: Path, settings: Settings, console: Console) -> dict[str, Any]:
    """Do the whole run and return its report."""
    started = time.monotonic()
    fixed(settings.seed)
    emptied(folder)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console) as progress:
        losses = train(folder, settings, progress)
        report = evaluate(folder, counter(progress, "evaluation", len(ROWS) * len(DTYPES)))
    report["run"] = {
        "seconds": round(time.monotonic() - started),
        # On a busy machine the clock runs ahead of the work; this is the work, of all processes together.
        "processor_seconds": round(sum(os.times()[:4])),
        "processes": settings.processes,
        "seed": settings.seed,
        "losses": {name: round(loss, 4) for name, loss in losses.items()},
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    write_json(folder / "evaluation.json", report)
    write_json(folder / "questions.json", showcase())
    write_card(folder, report)
    write_sums(folder)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line. Returns 1 when the model misses a bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder to write to")
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--quick", action="store_true", help="a few steps only, to test the code; checks no bars")
    options = parser.parse_args(arguments)
    settings = Settings(seed=options.seed)
    if options.quick:
        if options.out == SHIPPED:
            parser.error("--quick would replace the shipped model by an untrained one; name another --out")
        settings = replace(settings, schedule=QUICK)
    console = Console(stderr=True)
    report = run(options.out, settings, console)
    for name, result in report["results"].items():
        console.print(drawn(result, f"Right answers in percent ({name})"))
    missed = [] if options.quick else shortfalls(report)
    for line in missed:
        console.print(f"bar missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
