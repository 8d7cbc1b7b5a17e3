"""`PUT /api/adapters/{name}/files`: an adapter sent as the body, written to disk as it comes."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from loradex.engine.base import Progress
from loradex.errors import InvalidRequest, RegistryFailed
from loradex.registry.sources.fetch import Upload
from loradex.server.auth import Actor, may_admin
from loradex.server.errors import ClientGone
from loradex.server.jobs import LATER, Verbs
from loradex.server.state import TheService, refusals
from loradex.server.wire.defaults import DefaultsBody
from loradex.server.wire.verbs import ChangeReply, Mode
from loradex.service.views import Change

router = APIRouter(prefix="/api", tags=["Adapters"])

_WRITE_BYTES = 1 << 20

_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.put(
    "/adapters/{name}/files",
    dependencies=[Depends(may_admin)],
    response_model=ChangeReply,
    responses={**LATER, **refusals(400, 403, 409, 503)},
    openapi_extra=_BODY,
)
async def upload_adapter(
    name: str,
    request: Request,
    service: TheService,
    actor: Actor,
    verbs: Verbs,
    mode: Mode = "drain",
    replace: bool = True,
    allow_pickle: bool = False,
    sha256: str = "",
    canary: Annotated[float | None, Query(ge=0, lt=100)] = None,
    defaults: Annotated[str, Query(description="What requests for it may leave out, as JSON")] = "",
) -> ChangeReply | Response:
    """Register the adapter in the body as the next version of `name`: a zip, tar or tar.gz of its folder, or GGUF.

    It is checked, registered, loaded and served as if it had been added from a folder; as a job, once it is here.
    """
    given = _read(defaults).defaults() if defaults else None
    with ExitStack() as stack:
        folder = stack.enter_context(service.registry.receiving())
        upload = await _received(request, folder / "upload")
        received = stack.pop_all()  # the files are needed until the verb ends, which may be after the reply

    async def work(progress: Progress) -> Change:
        with received:
            return await service.adapters.add(
                name,
                upload,
                mode=mode,
                replace=replace,
                allow_pickle=allow_pickle,
                sha256=sha256,
                canary=canary,
                defaults=given,
                actor=actor,
                progress=progress,
            )

    return await verbs.carry_out("add", name, work)


def _read(defaults: str) -> DefaultsBody:
    try:
        return DefaultsBody.model_validate_json(defaults)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["defaults", *map(str, first["loc"])])
        raise InvalidRequest(f"{where}: {first['msg']}", param=where) from error


async def _received(request: Request, path: Path) -> Upload:
    """Write the body to `path`. What is larger than may be is refused by the middleware that counts it."""
    digest, size, pending = hashlib.sha256(), 0, bytearray()

    def write(file: BinaryIO) -> None:
        file.write(pending)
        digest.update(pending)
        pending.clear()

    try:
        with path.open("xb") as file:
            async for piece in request.stream():
                size += len(piece)
                pending += piece
                if len(pending) >= _WRITE_BYTES:
                    await asyncio.to_thread(write, file)
            await asyncio.to_thread(write, file)
    except ClientDisconnect as error:
        raise ClientGone from error
    except OSError as error:
        raise RegistryFailed(f"The upload could not be written: {error.strerror or error}") from error
    if not size:
        raise InvalidRequest("The body is empty", hint="Send it like `curl -T adapter.tar.gz URL`")
    return Upload(path, digest.hexdigest())
