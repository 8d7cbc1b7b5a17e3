"""A dataset on a service in this process: what `trtllm-bench throughput` measures."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from loradex.bench.dataset import Dataset, Place
from loradex.bench.deck import Tell
from loradex.bench.serving import Measured, serve_load
from loradex.bench.target import ServiceTarget
from loradex.service.promised import check_promised
from loradex.service.service import Service
from loradex.service.wiring import make_service
from loradex.settings import Settings


async def throughput_of_dataset(settings: Settings, dataset: Dataset, concurrency: int, tell: Tell) -> Measured:
    """Answer a dataset on the base model of the settings; adapters are registered before the clock runs.

    Raises:
        ConfigInvalid: the model cannot be served.
        FilesNotFound, AdapterInvalid: about an adapter of the dataset.
    """
    with tempfile.TemporaryDirectory(prefix="loradex-bench-") as home:
        service = make_service(replace(settings, home=Path(home), queue_timeout=1e9))
        try:
            await service.start(tell)
            await check_promised(service, settings.target_modules, settings.checked_adapters)
            names = [await _name(service, place) for place in dataset.adapters]
            return await serve_load(
                ServiceTarget(service, names), dataset.requests, names, tell, concurrency=concurrency
            )
        finally:
            await service.stop()
            service.registry.close()


async def _name(service: Service, place: Place) -> str:
    if not place.path:
        return place.name
    return str(await service.places.version(place.name, place.path, trusted=True, actor="bench"))
