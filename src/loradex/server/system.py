"""Routes about the server itself: probes, metrics and what it is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST

from loradex import __version__
from loradex.server.auth import may_infer
from loradex.server.state import TheService, is_ready, refusals
from loradex.server.wire.info import Health, Info, Limits, ModelReply, Ready, Stats

router = APIRouter(tags=["Server"])


_METRICS = {200: {"content": {"text/plain": {}}, "description": "The metrics"}, **refusals()}


@router.get("/health")
async def health() -> Health:
    """Say that the process answers. Needs no key."""
    return Health()


@router.get("/ready", responses={503: {"model": Ready, "description": "Not yet, or no more"}})
async def ready(is_ready: Annotated[bool, Depends(is_ready)], response: Response) -> Ready:
    """Say whether requests can be answered. Needs no key."""
    if not is_ready:
        response.status_code = 503
    return Ready(ready=is_ready)


@router.get("/metrics", dependencies=[Depends(may_infer)], response_class=Response, responses=_METRICS)
async def metrics(service: TheService) -> Response:
    """Show all metrics in Prometheus' text format."""
    return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)


@router.get("/api/info", dependencies=[Depends(may_infer)], responses=refusals(503))
async def info(service: TheService) -> Info:
    """Show the base model, the limits and the present load."""
    model = service.info
    return Info(
        version=__version__,
        model=ModelReply(
            id=model.id,
            path=model.path,
            architecture=model.architecture,
            dtype=model.dtype,
            quantization=model.quantization,
            kv_cache_dtype=model.kv_cache_dtype,
            device=model.device,
            vocab_size=model.vocab_size,
            max_model_len=model.max_model_len,
            has_chat_template=model.has_chat_template,
            digest=model.digest,
        ),
        limits=Limits(
            max_loras=service.max_loras, max_lora_rank=service.max_lora_rank, max_model_len=model.max_model_len
        ),
        stats=Stats(**asdict(service.engine.stats())),
    )
