"""A load on any OpenAI server: what `vllm bench serve` measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from loradex.bench.arrival import gamma_arrivals
from loradex.bench.dataset import Dataset
from loradex.bench.deck import Tell
from loradex.bench.http_target import HttpTarget, connected, model_names
from loradex.bench.serving import Measured, serve_load
from loradex.bench.workload import Workload
from loradex.errors import ConfigInvalid, near


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent.

    Attributes:
        workload: random prompts, with the rate at which requests come; its adapters are those of `modules`.
        modules: names of adapters, by number; none asks the base alone.
        base: what the server calls its base; empty takes its first model.
        dataset: instead of random prompts; its adapters are asked for by their names.
        concurrency: requests under way at once at most; 0 for no limit.
    """

    workload: Workload
    modules: tuple[str, ...] = ()
    base: str = ""
    dataset: Dataset | None = None
    concurrency: int = 0


async def serve_online(url: str, key: str, load: Load, tell: Tell) -> Measured:
    """Send a load to a server and measure it.

    Raises:
        ServerUnreachable: it does not answer.
        ConfigInvalid: the address is none, or it serves no such adapter.
        EngineFailed: it refused a request, or broke off.
    """
    workload, dataset = load.workload, load.dataset
    async with connected(url, key) as client:
        served = await model_names(client)
        names = load.modules if dataset is None else tuple(place.name for place in dataset.adapters)
        _check(names, served)
        requests = list(workload.make() if dataset is None else dataset.requests)
        if dataset is not None and workload.rate:
            moments = gamma_arrivals(workload.rate, workload.cv, len(requests), workload.seed + 3)
            requests = [replace(each, at=at) for each, at in zip(requests, moments, strict=True)]
        target = HttpTarget(client, load.base or served[0], names)
        return await serve_load(target, requests, names, tell, concurrency=load.concurrency, rate=workload.rate)


def _check(names: Sequence[str], served: Sequence[str]) -> None:
    for name in names:
        bare = name.partition("@")[0]
        if not set("+*") & set(name) and bare not in served:
            close = near(bare, served)
            hint = f"Did you mean `{close[0]}`?" if close else f"It serves {', '.join(served[:8])}"
            raise ConfigInvalid(f"The server has no adapter `{name}`", hint=hint, param="lora_modules")
