"""The application: routes, middleware and errors put together over one service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from loradex import __version__
from loradex.server import (
    adapters,
    chat,
    compare,
    completions,
    errors,
    jobs,
    llamacpp,
    lorax,
    models,
    page,
    resident,
    rollout,
    route,
    sglang,
    system,
    uploads,
    vllm_compat,
)
from loradex.server.auth import Authenticate, Keys
from loradex.server.middleware import BodyLimit, Edge
from loradex.service.service import Service
from loradex.settings import ServerConfig

_ABOUT = "One base model, a whole deck of LoRA adapters: switched, replaced and served in one batch."


def create_app(service: Service, config: ServerConfig) -> FastAPI:
    """Return the application. It starts the service with itself, and stops it, unless it runs already."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ours = not service.ready
        if ours:
            await service.start()
        try:
            yield
        finally:
            if ours:
                await service.stop()

    app = FastAPI(
        title="Loradex", version=__version__, description=_ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.service = service
    app.state.config = config
    app.state.open = True
    errors.install(app)
    app.state.scales = llamacpp.Scales()
    ours = (adapters, uploads, rollout, resident, route, jobs, system, page)
    for part in (chat, completions, compare, models, vllm_compat, sglang, lorax, llamacpp, *ours):
        app.include_router(part.router)
    # The last one added is the outermost.
    app.add_middleware(Authenticate, keys=Keys(config.infer_keys, config.admin_keys))
    app.add_middleware(BodyLimit, upload=service.max_adapter_size)
    app.add_middleware(Edge)
    return app
