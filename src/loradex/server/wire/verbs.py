"""Bodies of the verbs that change adapters, and what they reply."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from loradex.server.body import Body, Whole
from loradex.server.wire.defaults import DefaultsBody
from loradex.service.views import Change


def _folder(value: str) -> str:
    if "\0" in value or not value:
        raise ValueError("a path is neither empty nor holds a null character")
    return value


FolderPath = Annotated[str, Field(max_length=4096), AfterValidator(_folder)]
"""A path on the server's machine, or an address that the server may fetch from."""

Mode = Literal["drain", "immediate"]
"""What happens to running answers: they finish on the version they began with, or switch at their next token."""

VersionNumber = Annotated[Whole, Field(ge=1, le=2**31 - 1)]


class AddBody(Body):
    """Register the adapter at `path`, a path or an address, as the next version of `name`, and serve it."""

    name: str
    path: FolderPath
    sha256: str = Field("", description="Refuse any other digest, or archive")
    mode: Mode = "drain"
    replace: bool = True
    allow_pickle: bool = False
    canary: Annotated[float, Field(ge=0, lt=100)] | None = Field(
        None, description="Percent of the requests that the version gets; the name goes on to mean what it means"
    )
    defaults: DefaultsBody | None = Field(
        None, description="What requests for it may leave out; null for what those for the name may now"
    )


class CheckBody(Body):
    """Check the adapter at `path` without registering it."""

    path: FolderPath
    allow_pickle: bool = False


class PromoteBody(Body):
    """Point an alias at a version."""

    version: VersionNumber
    mode: Mode = "drain"


class RollbackBody(Body):
    """Go back to what the name meant before."""

    mode: Mode = "drain"


class LoadBody(Body):
    """Make resident what a reference means."""

    adapter: str


class Pinned(BaseModel):
    """A version by number and digest."""

    version: int
    digest: str


class ChangeReply(BaseModel):
    """What a change did; times in seconds."""

    name: str
    version: int
    digest: str
    previous: Pinned | None
    stage_seconds: float
    load_seconds: float
    switch_seconds: float
    moved: int

    @classmethod
    def of(cls, change: Change) -> ChangeReply:
        """Return the reply for a change."""
        before = change.previous
        return cls(
            name=change.ref.name,
            version=change.ref.version,
            digest=change.ref.digest,
            previous=Pinned(version=before.version, digest=before.digest) if before else None,
            stage_seconds=change.stage_seconds,
            load_seconds=change.load_seconds,
            switch_seconds=change.switch_seconds,
            moved=change.moved,
        )


class RemovedReply(BaseModel):
    """What was removed; `version` is null for the whole name."""

    name: str
    version: int | None
    removed: bool = True
