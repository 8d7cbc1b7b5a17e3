"""What the server tells of adapters, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loradex.errors import LoradexError, Problem


@dataclass(frozen=True, slots=True)
class VersionView:
    """One immutable version of an adapter. `slot` is where the engine holds it, None when it is not resident.

    Where one adapter was asked for, `config` is its `adapter_config.json`, `defaults` what requests may leave out. The
    counts, from `hits` on, are those of the server since its start; `ttft_seconds` is the mean from arrival to a first
    token, None without one.
    """

    version: int
    digest: str
    source: str = ""
    base_name: str | None = None
    rank: int = 0
    modules: tuple[str, ...] = ()
    parameters: int = 0
    bytes: int = 0
    created_at: str = ""
    resident: bool = False
    tier: str = "disk"
    pinned: bool = False
    slot: int | None = None
    leases: int = 0
    running: int = 0
    waiting: int = 0
    hits: int = 0
    misses: int = 0
    device_bytes: int = 0
    host_bytes: int = 0
    loads: int = 0
    load_seconds: float = 0.0
    evictions: int = 0
    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    ttft_seconds: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shadow:
    """The version that gets a copy of `percent` of the requests for the bare name."""

    version: int
    percent: float


@dataclass(frozen=True, slots=True)
class AdapterView:
    """An adapter: its versions, its aliases, and the version that its bare name means now (`current`).

    `canary` is the percent of the bare name's requests by version, while several share them; else it is empty.
    `shadow` is the version that gets copies of them, None where there is none.
    """

    name: str
    enabled: bool = True
    current: int | None = None
    created_at: str = ""
    aliases: Mapping[str, int] = field(default_factory=dict)
    versions: tuple[VersionView, ...] = ()
    canary: Mapping[int, float] = field(default_factory=dict)
    shadow: Shadow | None = None

    @property
    def current_version(self) -> VersionView | None:
        """The version that the bare name means, None where there is none."""
        return next((each for each in self.versions if each.version == self.current), None)


@dataclass(frozen=True, slots=True)
class Pinned:
    """The number and digest of a version."""

    version: int
    digest: str


@dataclass(frozen=True, slots=True)
class Change:
    """What a change did. `switch_seconds` is the time in which new requests moved over; `moved` counts running ones.

    `notes` say what it did beyond, or short of, what was asked, on a server of another kind.
    """

    name: str
    version: int
    digest: str = ""
    previous: Pinned | None = None
    stage_seconds: float = 0.0
    load_seconds: float = 0.0
    switch_seconds: float = 0.0
    moved: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KindView:
    """The adapted linears of one kind and shape, with all ranks and scalings that occur among them."""

    name: str
    count: int = 0
    in_features: int = 0
    out_features: int = 0
    ranks: tuple[int, ...] = ()
    scalings: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """A long operation; times are UTC in ISO form.

    The state is `running`, `cancelling`, `done` (then there is a `result`), `failed` (then there is an `error`) or
    `cancelled`. It can be cancelled until its stage is `commit`.
    """

    id: str
    kind: str
    target: str
    state: str
    actor: str = ""
    stage: str = ""
    progress: float = 0.0
    created_at: str = ""
    ended_at: str | None = None
    result: Change | None = None
    error: LoradexError | None = None

    @property
    def ended(self) -> bool:
        """Whether it has come to an end."""
        return self.ended_at is not None


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found; `ok` when there is no problem.

    `device_bytes` is what the adapter would take in the engine, `load_seconds` what a load would take at the rate of
    those so far, None where there was none.
    """

    ok: bool
    format: str = "peft"
    digest: str = ""
    rank: int = 0
    modules: tuple[str, ...] = ()
    kinds: tuple[KindView, ...] = ()
    parameters: int = 0
    bytes: int = 0
    device_bytes: int = 0
    load_seconds: float | None = None
    base_model: str | None = None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change in an adapter's history; `when` is UTC in ISO form."""

    when: str
    who: str
    action: str
    alias: str | None = None
    from_version: int | None = None
    to_version: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class ResidentView:
    """An adapter version in memory; `device` is the tier where the engine can use it at its next step.

    Hits are requests that found it there, misses those that had to wait for a load; `load_seconds` is the last one's.
    """

    name: str
    version: int
    digest: str
    tier: str = "device"
    slot: int | None = None
    bytes: int = 0
    pinned: bool = False
    leases: int = 0
    running: int = 0
    waiting: int = 0
    last_used: str | float | None = None
    hits: int = 0
    misses: int = 0
    loads: int = 0
    load_seconds: float = 0.0
    evictions: int = 0
    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    ttft_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Info:
    """What a server is: its version, base model, limits and present load."""

    product: str
    version: str
    model: Mapping[str, Any]
    limits: Mapping[str, Any]
    stats: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class InvalidView:
    """An entry of a folder that the server watches, which cannot be served, and why."""

    name: str
    path: str
    code: str
    message: str
    problems: tuple[Problem, ...] = ()
