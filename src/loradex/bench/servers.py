"""Two servers as two sides, or one server's adapters against its base."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import httpx

from loradex.bench.target import HttpTarget, model_names
from loradex.bench.throughput import Side
from loradex.bench.workload import Workload
from loradex.errors import ConfigInvalid

ANSWER_SECONDS = 600.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def address(url: str) -> str:
    """Return a server's address without its `/v1`.

    Raises:
        ConfigInvalid: it is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigInvalid(f"{url!r} is not a server address", hint="Write it like http://127.0.0.1:8000")
    return url.rstrip("/").removesuffix("/v1")


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
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    client = await stack.enter_async_context(
        httpx.AsyncClient(
            base_url=address(url),
            headers=headers,
            timeout=ANSWER_SECONDS,
            # A proxy from the environment must not stand before this machine; and no request waits for a connection.
            trust_env=urlsplit(url).hostname not in _LOOPBACK,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        )
    )
    base, *names = await model_names(client)
    if len(names) < adapters:
        raise ConfigInvalid(
            f"{url} serves {len(names)} adapters; the workload asks for {adapters}",
            hint="Serve more, or give `--adapters` and a popularity that needs fewer",
        )
    return HttpTarget(client, base, names)
