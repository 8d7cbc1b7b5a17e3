"""Kills a process at every point of a change, and looks at what is left. `python -m tests.faults.killing` is a process
of its own, since it forks: every trial is a child that works on its own copy of a data folder and ends itself.

`operation`  SIGKILL just before the n-th thing that the child does to the folder or the store: a file opened for
             writing, renamed, removed, synced, a statement, a commit; or just after a commit
`byte`       no file may grow past n bytes: the kernel ends the child in the middle of the write that would (SIGXFSZ)
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import alembic.command
from sqlalchemy import Engine, create_engine, event

from loradex.adapters.packs import PackFolder
from loradex.registry import migrate
from loradex.registry.registry import Registry
from tests.adapters.making import BASE, make_adapter, make_tensors

Verb = Callable[[Registry, Path], object]


def _add(name: str, seed: int, **options: Any) -> Verb:
    def verb(registry: Registry, adapters: Path) -> object:
        staged = registry.stage(adapters / str(seed), BASE, max_rank=16)
        return registry.commit(name, staged, actor="ada", **options)

    return verb


def _pack(registry: Registry, adapters: Path) -> None:
    packs = PackFolder(registry.home / "packs")
    digest = registry.resolve("medical").digest
    temporary = packs.temporary(digest)
    with temporary.open("wb") as file:
        for _ in range(4):
            file.write(bytes(4096))
    packs.publish(temporary, packs.path(digest, "float32", 9))


VERBS: dict[str, Verb] = {
    "add": _add("poetry", 5, serve=True),
    "replace": _add("medical", 5, serve=True),
    "add as a canary": _add("medical", 5, canary=10),
    "promote": lambda registry, _: registry.promote("medical", 1, actor="ada"),
    "alias": lambda registry, _: registry.promote("medical", 1, "prod", actor="ada"),
    "rollback": lambda registry, _: registry.rollback("medical", actor="ada"),
    "canary": lambda registry, _: registry.canary("medical", {1: 90, 2: 10}, actor="ada"),
    "remove a version": lambda registry, _: registry.remove("medical", 1, actor="ada"),
    "remove a name": lambda registry, _: registry.remove("medical", actor="ada"),
    "check": lambda registry, adapters: registry.check(adapters / "5", BASE, max_rank=16),
    "pack": _pack,
    "migrate": lambda registry, _: None,  # opening it is the change
}


@dataclass
class Trial:
    """How one child ended: at which point it was killed, and what was wrong afterwards."""

    verb: str
    kind: str
    point: int
    killed: bool
    wrong: list[str]


def main() -> None:
    """Read what to do as JSON from standard input, and write every trial as a line of JSON."""
    asked = json.load(sys.stdin)
    folder = Path(asked["folder"])
    make_templates(folder)
    chance = random.Random(asked["seed"])
    for verb in asked["verbs"] or VERBS:
        for trial in trials(folder, verb, asked["points"], chance):
            print(json.dumps(asdict(trial)), flush=True)


def make_templates(folder: Path) -> None:
    """Make a data folder with something in it, one like it of the first schema, and adapters to add."""
    for seed in (1, 2, 3, 5):
        make_adapter(folder / "adapters" / str(seed), make_tensors(seed=seed))
    with Registry(folder / "home") as registry:
        for name, seed in (("medical", 1), ("medical", 2), ("legal", 3)):
            _add(name, seed, serve=True)(registry, folder / "adapters")
        _pack(registry, folder / "adapters")
    shutil.copytree(folder / "home", folder / "old")
    with create_engine(f"sqlite:///{folder / 'old' / 'registry.db'}").begin() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        alembic.command.downgrade(config, "0001")


def trials(folder: Path, verb: str, points: int, chance: random.Random) -> Iterator[Trial]:
    """Yield trials of one verb: at every operation and many bytes, or at `points` of them."""
    template = folder / ("old" if verb == "migrate" else "home")
    before = after = view(shutil.copytree(template, folder / "before"))
    total = _trial(folder, template, verb, "operation", 1 << 30)  # not killed: counts the operations
    if verb not in ("check", "pack", "migrate"):
        after = view(folder / "trial")
    after = {"medical": None, **after}
    largest = max(path.stat().st_size for path in (folder / "trial").rglob("*") if path.is_file())
    operations = list(range(total[1]))
    sizes = [0, 1, *(1 << power for power in range(7, largest.bit_length()))]
    bytes_ = [chance.randrange(size, 2 * size + 1) for size in sizes]
    if points:
        operations = sorted(chance.sample(operations, min(points, len(operations))))
        bytes_ = sorted(chance.sample(bytes_, min(points, len(bytes_))))
    for kind, places in (("operation", operations), ("byte", bytes_)):
        for point in places:
            status, _, acknowledged = _trial(folder, template, verb, kind, point)
            wrong = look(folder / "trial", before, after, acknowledged)
            ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
            if status and ended not in (signal.SIGKILL, signal.SIGXFSZ):
                wrong.append(f"the child ended with status {status}")
            yield Trial(verb, kind, point, ended is not None, wrong)
    shutil.rmtree(folder / "before")


def _trial(folder: Path, template: Path, verb: str, kind: str, point: int) -> tuple[int, int, bool]:
    """Let a child do one verb; return its status, the operations it came to, and whether it said that it was done."""
    shutil.rmtree(folder / "trial", ignore_errors=True)
    shutil.copytree(template, folder / "trial")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            arm(folder / "trial", kind, point, writing)
            with Registry(folder / "trial") as registry:
                VERBS[verb](registry, folder / "adapters")
            os.write(writing, b"!")
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - the parent is told by the status
            print(f"{verb}, {kind} {point}: {error!r}", file=sys.stderr, flush=True)
            os._exit(7)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    return os.waitpid(child, 0)[1], said.count(b"."), said.endswith(b"!")


def arm(home: Path, kind: str, point: int, told: int) -> None:
    """Make this process end at a point of its work on `home`; every operation is told as a dot."""
    if kind == "byte":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (point, point))
        return
    count = 0

    def operation(*_: object) -> None:
        nonlocal count
        if count == point:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        os.write(told, b".")

    def audit(name: str, arguments: tuple[Any, ...]) -> None:
        changes = name.startswith("os.") or (name == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if changes and any(str(home) in str(each) for each in arguments):
            operation()

    sys.addaudithook(audit)
    sync = os.fsync

    def fsync(handle: int) -> None:
        operation()
        sync(handle)

    os.fsync = fsync
    for name in ("before_cursor_execute", "commit"):
        event.listen(Engine, name, operation)
    do_commit = sqlite3.Connection.commit

    class Told(sqlite3.Connection):
        def commit(self) -> None:
            do_commit(self)
            operation()

    event.listen(Engine, "do_connect", lambda _, __, ___, options: options.update(factory=Told))


def view(home: Path) -> dict[str, Any]:
    """What is registered, without times."""
    with Registry(home) as registry:
        return told(registry)


def told(registry: Registry) -> dict[str, Any]:
    """What a registry tells, without times."""
    return {
        record.name: [
            [(version.version, version.digest) for version in record.versions],
            dict(record.aliases),
            dict(record.canary),
            (record.current, record.enabled),
            [(entry.actor, entry.action, entry.to_version, entry.note) for entry in registry.history(record.name)],
        ]
        for record in registry.list()
    }


def look(home: Path, before: dict[str, Any], after: dict[str, Any], acknowledged: bool) -> list[str]:
    """Open what a killed process left, and return everything that is wrong with it."""
    wrong = []
    with Registry(home) as registry:
        now = {"medical": None, **told(registry)}
        if now != after and (acknowledged or now != before):
            wrong.append(f"acknowledged: {acknowledged}, but there is {now}")
        for digest in {version.digest for record in registry.list() for version in record.versions}:
            registry.adapter(digest, verify=True)
    with sqlite3.connect(home / "registry.db") as database:
        wrong += [f"{row}" for row in database.execute("PRAGMA integrity_check") if row != ("ok",)]
        wrong += [f"{row}" for row in database.execute("PRAGMA foreign_key_check")]
    return wrong + [f"left: {path}" for path in temporary(home)]


def temporary(home: Path) -> list[str]:
    """Files and folders that are neither the store nor an adapter's."""
    parts = {"adapter_config.json", "adapter_model.safetensors", "stamp.json"}
    blobs = [path for path in (home / "blobs").glob("*") if len(path.name) != 2]
    blobs += [path for path in (home / "blobs").glob("??/*") if {each.name for each in path.iterdir()} - parts]
    packs = [path for path in (home / "packs").glob("*") if path.suffix != ".pack"]
    known = {"blobs", "packs", "registry.db", "registry.db-wal", "registry.db-shm", "registry.lock"}
    others = [path for path in home.iterdir() if path.name not in known]
    return [str(path.relative_to(home)) for path in (*blobs, *packs, *others)]


if __name__ == "__main__":
    main()
