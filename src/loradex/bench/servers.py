"""Two servers as two sides, or one server's adapters against its base."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from loradex.bench.http_target import HttpTarget, address, connected, model_names
from loradex.bench.throughput import Side
from loradex.bench.workload import Workload
from loradex.errors import ConfigInvalid


@asynccontextmanager
async def two_sides(
    url: str, against: str | None, workload: Workload, key: str = ""
) -> AsyncIterator[tuple[Side, Side]]:
    """Yield the sides: the workload on the server at `url`, and on `against` or, without one, on the server's own base.

    A server's first model is its base, the next ones its adapters.

    Raises:
        ServerUnreachable: a server does not answer.
        ConfigInvalid: an address is none, or a server has too few adapters.
    """
    async with AsyncExitStack() as stack:
        target = await _target(stack, url, workload.adapters, key)
        requests = workload.make()
        if against is None:
            yield Side(workload.popularity, target, requests), Side("base", target, workload.base().make())
        else:
            other = await _target(stack, against, workload.adapters, key)
            yield Side(address(url), target, requests), Side(address(against), other, requests)


async def _target(stack: AsyncExitStack, url: str, adapters: int, key: str) -> HttpTarget:
    client = await stack.enter_async_context(connected(url, key))
    base, *names = await model_names(client)
    if len(names) < adapters:
        raise ConfigInvalid(
            f"{url} serves {len(names)} adapters; the workload asks for {adapters}",
            hint="Serve more, or give `--adapters` and a popularity that needs fewer",
        )
    return HttpTarget(client, base, names)
