"""The result of a run: what was measured, on what, beside which floor. JSON in and out, raw samples kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loradex.bench.floor import Floor
from loradex.bench.machine import between, machine, ticks, versions
from loradex.bench.pairs import Pairs
from loradex.errors import ConfigInvalid

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Result:
    """One run.

    Attributes:
        kind: `throughput`, `latency`, `swap`, `scale`, or `peer`.
        name: of this run; the file is called so.
        rows: the ratios.
        workload: the workload and the options behind it.
        model: the base model and the class of its adapters.
        machine, versions: where it ran, with the shares of `machine.between`.
        floor: what this machine can do; None where it could not be measured.
        raw: everything else that was measured.
        when: in UTC, ISO format.
    """

    kind: str
    name: str
    rows: tuple[Pairs, ...]
    workload: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    floor: Floor | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)
    when: str = ""

    def row(self, what: str) -> Pairs | None:
        """Return the row of that name."""
        return next((row for row in self.rows if row.what == what), None)

    def describe(self) -> dict[str, Any]:
        """Return it as plain values."""
        data = {name: getattr(self, name) for name in ("kind", "name", "when", "workload", "model", "machine")}
        floor = asdict(self.floor) if self.floor else None
        rows = [row.describe() for row in self.rows]
        return {"schema": SCHEMA, **data, "versions": self.versions, "floor": floor, "rows": rows, "raw": self.raw}

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.describe(), indent=1) + "\n", encoding="utf-8")


def read_result(path: Path) -> Result:
    """Read a result from its file.

    Raises:
        ConfigInvalid: the file cannot be read or is no result.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise ConfigInvalid(f"{path} has schema {data['schema']}; this version reads {SCHEMA}", hint="Run it again")
        names = ("kind", "name", "when", "workload", "model", "machine", "versions", "raw")
        return Result(
            rows=tuple(Pairs.read(row) for row in data["rows"]),
            floor=Floor(**data["floor"]) if data["floor"] else None,
            **{name: data[name] for name in names},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigInvalid(f"{path} is no benchmark result: {error!r}", hint="Name files that bench wrote") from error


class Record:
    """Watches the machine from its making on, and puts a result together at the end."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        self._when = datetime.now(UTC).isoformat(timespec="seconds")
        self._before = ticks()

    def result(
        self,
        rows: list[Pairs],
        *,
        floor: Floor | None,
        workload: Mapping[str, Any],
        model: Mapping[str, Any],
        raw: Mapping[str, Any],
    ) -> Result:
        """Return the result of what happened since."""
        here = machine() | {"during": between(self._before, ticks())}
        return Result(self.kind, self.name, tuple(rows), workload, model, here, versions(), floor, raw, self._when)
