"""Two adapters at a time: a small model trains faster in two processes than with two threads in one."""

import multiprocessing
import queue
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from demo.adapters import train_adapter
from demo.chance import fixed
from demo.loop import Report
from demo.settings import ADAPTERS, Settings

Watch = Callable[[str], Report]


def _work(name: str, base: Path, folder: Path, settings: Settings, news: Any) -> float:
    fixed(settings.seed)
    parent = multiprocessing.parent_process()

    def report(step: int, steps: int, loss: float) -> None:
        # When the run is killed, nobody stops its workers, and they would train on for nobody.
        if parent is not None and not parent.is_alive():
            raise SystemExit(1)
        if step % 10 == 0 or step == steps:
            news.put((name, step, steps, loss))

    return train_adapter(name, base, folder, settings, report)


def _relay(news: Any, reports: dict[str, Report]) -> None:
    try:
        name, step, steps, loss = news.get(timeout=0.2)
    except queue.Empty:
        return
    reports[name](step, steps, loss)


def train_adapters(base: Path, folder: Path, settings: Settings, watch: Watch) -> dict[str, float]:
    """Train all adapters below a folder and return their last losses."""
    reports = {name: watch(name) for name in ADAPTERS}
    # Fresh processes and not forks: a fork of a process with running threads can hang.
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(settings.processes, mp_context=context) as pool:
        news = manager.Queue()
        jobs: dict[str, Future[float]] = {
            name: pool.submit(_work, name, base, folder / name, settings, news) for name in ADAPTERS
        }
        while not news.empty() or not all(job.done() for job in jobs.values()):
            _relay(news, reports)
        return {name: job.result() for name, job in jobs.items()}
