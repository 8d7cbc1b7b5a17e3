"""The checks of `loradex doctor`: each looks at one thing and says how to mend it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from loradex.engine.memory import available_memory
from loradex.errors import LoradexError
from loradex.settings import Settings

Status = Literal["ok", "warn", "fail"]

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found; `fix` is empty where nothing is to be done."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def every_check(settings: Settings) -> Iterator[Check]:
    """Run all checks, in the order in which things depend on each other."""
    checks: tuple[Callable[[Settings], Check], ...] = (
        _python,
        _torch,
        _transformers,
        _threads,
        _memory,
        _disk,
        _home,
        _registry,
        _server,
    )
    for check in checks:
        yield check(settings)


def _python(_: Settings) -> Check:
    return Check("python", "ok", f"{platform.python_version()} at {sys.executable}")


def _installed(package: str, fix: str) -> Check:
    # Only looked up, not imported: torch takes seconds to import.
    try:
        found = version(package)
    except PackageNotFoundError:
        found = ""
    if not found or importlib.util.find_spec(package) is None:
        return Check(package, "warn", "not installed: the local engine cannot run", fix)
    return Check(package, "ok", found)


def _torch(_: Settings) -> Check:
    return _installed("torch", "pip install 'loradex[local]'")


def _transformers(_: Settings) -> Check:
    return _installed("transformers", "pip install 'loradex[local]'")


def _threads(settings: Settings) -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = settings.engine.threads
    if wanted is not None and wanted > usable:
        return Check("threads", "warn", f"{wanted} asked for, {usable} cores usable", f"Give `--threads {usable}`")
    return Check("threads", "ok", f"{wanted or usable} of {usable} usable cores")


def _memory(settings: Settings) -> Check:
    available = available_memory()
    if available is None:
        return Check("memory", "ok", "unknown on this system")
    shown = f"{available / _GIB:.1f} GiB available"
    if available < settings.engine.kv_cache_memory + _GIB // 2:
        return Check("memory", "warn", shown, "Give a smaller `--kv-cache-memory`, or close other programs")
    return Check("memory", "ok", shown)


def _existing(path: Path) -> Path:
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())


def _disk(settings: Settings) -> Check:
    free = shutil.disk_usage(_existing(settings.home)).free
    shown = f"{free / _GIB:.1f} GiB free at {settings.home}"
    if free < _GIB:
        return Check("disk", "warn", shown, "Free some space, or name another folder with `--home`")
    return Check("disk", "ok", shown)


def _home(settings: Settings) -> Check:
    try:
        with tempfile.TemporaryFile(dir=_existing(settings.home)):
            pass
    except OSError as error:
        return Check("home", "fail", f"{settings.home}: {error.strerror}", "Name a writable folder with `--home`")
    return Check("home", "ok", f"{settings.home} is writable")


def _registry(settings: Settings) -> Check:
    if not settings.home.exists():
        return Check("registry", "ok", "empty: nothing was added yet")
    from loradex.registry.registry import Registry

    damaged = []
    try:
        registry = Registry(settings.home)
        records = registry.list()
        for record in records:
            for each in record.versions:
                try:
                    registry.adapter(each.digest, verify=True)
                except LoradexError:
                    damaged.append(f"{record.name}@{each.version}")
        registry.close()
    except LoradexError as error:
        return Check("registry", "fail", error.message, error.hint)
    if damaged:
        detail = f"files are gone or changed: {', '.join(damaged)}"
        return Check("registry", "fail", detail, "Add them again: loradex adapter add NAME PATH")
    return Check("registry", "ok", f"{len(records)} adapters, every file matches its digest")


def _server(settings: Settings) -> Check:
    from loradex.client.client import Client
    from loradex.client.wire import DEFAULT_URL

    url = settings.url or DEFAULT_URL
    try:
        with Client(url, api_key=settings.api_key, timeout=3.0) as client:
            info = client.info()
        return Check("server", "ok", f"{url} serves {info.model.get('id')} (Loradex {info.version})")
    except LoradexError as error:
        if settings.url:
            return Check("server", "fail", error.message, error.hint)
    port = settings.server.port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.server.host, port))
        except OSError:
            fix = f"Stop what uses it, or give `--port {port + 1}`"
            return Check("server", "warn", f"none of ours; port {port} is in use by another program", fix)
    return Check("server", "ok", f"none runs; port {port} is free")
