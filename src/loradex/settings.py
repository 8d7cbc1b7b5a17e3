"""Settings of the whole house: flag > environment > file > default.

Every setting has one dotted key (`engine.max_loras`). It can be given as a flag of `loradex serve`, as an environment
variable (`LORADEX_ENGINE__MAX_LORAS`) and in a file, `loradex.toml` (`[engine]`, `max_loras = 4`) or YAML, which may
also speak TensorRT-LLM's words (`lora_config`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from loradex.arguments.settings_file import Layer, read_layer, unknown
from loradex.engine.config import EngineConfig
from loradex.errors import ConfigInvalid

FILE = "loradex.toml"
"""The file that is read from the working folder when none is named."""

PREFIX = "LORADEX_"

# Names of ours that are no settings, and what Kubernetes sets in every pod beside a service called "loradex".
_OTHER_NAMES = {"LORADEX_CONFIG", "LORADEX_NO_PROGRESS", "LORADEX_DEBUG"}
_KUBERNETES = re.compile(r"LORADEX_(SERVICE_(HOST|PORT.*)|PORT(_\d+_(TCP|UDP).*)?)")

_UNITS = {"": 1, "B": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_UNITS |= {f"{letter}iB": _UNITS[letter] for letter in "KMGT"}
_UNITS |= {"kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Settings of the HTTP server.

    Attributes:
        host, port: where it listens; port 0 takes a free one.
        infer_keys: API keys that may ask for answers, as `KEY` or `NAME=KEY`.
        admin_keys: API keys that may also change adapters; the name stands in the history. With no key at all the
            server is open.
        allow_dirs: folders from which clients may load adapters.
        allow_urls: beginnings of addresses from which clients may load adapters, such as `hf://acme`; none by default.
        strict: refuse unknown request fields instead of naming them in a header.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    infer_keys: tuple[str, ...] = ()
    admin_keys: tuple[str, ...] = ()
    allow_dirs: tuple[Path, ...] = ()
    allow_urls: tuple[str, ...] = ()
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting. `Settings.read` gathers them; made directly, it is a plain value that reads nothing.

    Attributes:
        engine: the base model and the engine that runs it.
        server: the HTTP server.
        engine_name: which engine: `local`, or another that is installed.
        home: folder of the registry: names, versions and adapter files.
        adapters: adapters that `serve` adds when it starts: name to path or address.
        max_adapter_size: bytes that are downloaded, unpacked or uploaded for one adapter at most.
        watch: folders whose entries are adapters, which `serve` adds, and adds again when they change.
        watch_settle: seconds that an entry of a watched folder must not have changed before it is read.
        lora_dir: folder in which an unknown `model` is looked for as the sub-folder of that name.
        resolver: function that knows where the adapter of an unknown `model` lies, as `module:function`.
        router: YAML file that says how the adapter for a prompt is chosen.
        adapter_memory: bytes of adapter weights in the engine; None for as many as `max_loras` slots hold.
        adapter_host_memory: bytes of adapter weights kept in host memory for quick loads, where the engine computes on
            a device with memory of its own; None for no limit. On a CPU both are one: there it stands for
            `adapter_memory` where that is not given.
        adapter_memory_share: share of the device's free memory, in the place of `adapter_memory`.
        gpu_memory_utilization: share of a card's memory for weights, adapters, keys and values together, in the place
            of `engine.kv_cache_memory`; no effect on a CPU.
        checked_adapters: paths or addresses of adapters that are checked when the base is loaded, so that a wrong one
            shows then; clients may name them.
        target_modules: names of the base's linears, in its words or TensorRT-LLM's: they are checked and limit nothing.
        rollback_error_rate: share of failed requests above which a new version is rolled back; 1 never does.
        rollback_requests: how many of a version's last requests that looks at; fewer decide nothing.
        rollback_window: seconds for which a version that has taken over is looked at; a canary is as long as it runs.
        shadow_log_size: bytes that the recorded answers of one name's shadow may take.
        adapter_ttl: seconds after which an adapter that nobody asks for leaves the engine; None lets it stay.
        pinned: adapters that `serve` pins when it starts: they are loaded, and never make room for others.
        queue_timeout: seconds that a request waits for room for its adapter before it is refused.
        url: the server that client commands talk to; empty means the usual address.
        api_key: the key that client commands send.
        sources: for each key that is not at its default, where its value came from.
    """

    engine: EngineConfig = field(default_factory=EngineConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    engine_name: str = "local"
    home: Path = Path("~/.loradex")
    adapters: dict[str, str] = field(default_factory=dict)
    max_adapter_size: int = 4 << 30
    watch: tuple[Path, ...] = ()
    watch_settle: float = 2.0
    lora_dir: Path | None = None
    resolver: str = ""
    router: Path | None = None
    adapter_memory: int | None = 1 << 30
    adapter_host_memory: int | None = 4 << 30
    adapter_memory_share: float | None = None
    gpu_memory_utilization: float | None = None
    checked_adapters: tuple[str, ...] = ()
    target_modules: tuple[str, ...] = ()
    adapter_ttl: float | None = None
    rollback_error_rate: float = 0.5
    rollback_requests: int = 20
    rollback_window: float = 600.0
    shadow_log_size: int = 64 << 20
    pinned: tuple[str, ...] = ()
    queue_timeout: float = 30.0
    url: str = ""
    api_key: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        flags: Mapping[str, Any] | None = None,
        config: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Settings:
        """Gather the settings; `flags` maps dotted keys to values, where None means not given.

        The file, TOML or YAML, is `config`, else what `LORADEX_CONFIG` names, else `loradex.toml` in the working folder
        where there is one. An empty variable counts as not set.

        Raises:
            ConfigInvalid: a key is unknown, a value does not fit, or the file cannot be read.
        """
        environ = os.environ if environ is None else environ
        named = config or (Path(environ["LORADEX_CONFIG"]) if environ.get("LORADEX_CONFIG") else None)
        layers = [
            *([read_layer(named or Path(FILE), KEYS)] if named or Path(FILE).is_file() else []),
            _from_environment(environ),
            {key: (value, "flag") for key, value in (flags or {}).items() if value is not None},
        ]
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for layer in layers:
            for key, (raw, source) in layer.items():
                values[key] = _checked(key, raw, source)
                sources[key] = source
        return _built(values, sources)

    def describe(self) -> list[Setting]:
        """Return every setting with its value and where that came from; keys are masked."""
        return [
            Setting(key, _shown(key, _lookup(self, key)), self.sources.get(key, "default"), variable(key))
            for key in KEYS
        ]


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of `config show`. `source` is `flag`, `environment`, `default` or the path of a file."""

    key: str
    value: Any
    source: str
    variable: str


def variable(key: str) -> str:
    """Return the environment variable of a dotted key."""
    return PREFIX + key.upper().replace(".", "__")


def parse_size(text: str) -> int:
    """Return the number that `8GiB`, `512M`, `4k` or `25.6k` means.

    As in vLLM, `k`, `m`, `g`, `t` are powers of 1000 and `K`, `M`, `G`, `T` powers of 1024; `KiB` and `KB` are exact.

    Raises:
        ValueError: where it is no such number, or not a whole one.
    """
    match = re.fullmatch(r"\s*([0-9][0-9_]*)(\.[0-9]+)?\s*([A-Za-z]*)\s*", text, re.ASCII)
    if match is None or match[3] not in _UNITS:
        raise ValueError("it is not a size; write it like 4096, 4k, 512MiB or 8GiB")
    unit = _UNITS[match[3]]
    if not match[2]:
        return int(match[1]) * unit
    number = float(match[1] + match[2]) * unit
    if number != int(number):
        raise ValueError("it is not a whole number")
    return int(number)


def parse_duration(text: str) -> float:
    """Return the seconds that `300ms`, `30`, `30s`, `5m` or `1h30m` means.

    Raises:
        ValueError: where it is no such duration.
    """
    text = text.strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError("it is not a duration; write it like 300ms, 30s, 5m or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _keys(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the type of every setting."""
    hints = get_type_hints(cls)
    for each in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[each.name]):
            yield from _keys(hints[each.name], f"{prefix}{each.name}.")
        elif each.name != "sources":
            yield prefix + each.name, hints[each.name]


KEYS: dict[str, Any] = dict(_keys(Settings))
"""Every dotted key, with the type of its value."""


def _from_environment(environ: Mapping[str, str]) -> Layer:
    variables = {variable(key): key for key in KEYS}
    layer: Layer = {}
    for name, value in environ.items():
        if not value:
            continue
        if name in variables:
            layer[variables[name]] = (value, "environment")
        elif name.startswith(PREFIX) and name not in _OTHER_NAMES and not _KUBERNETES.fullmatch(name):
            raise unknown(name, "the environment", variables)
    return layer


def _checked(key: str, raw: Any, source: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    where = f"from the environment variable {variable(key)}" if source == "environment" else f"from {source}"
    shown = _shown(key, raw)
    if key not in KEYS:
        raise unknown(key, where, KEYS)
    try:
        if isinstance(raw, str):
            raw = _from_text(KEYS[key], raw)
        elif isinstance(raw, list) and get_origin(KEYS[key]) is dict:
            raw = _pairs(raw)
        value = TypeAdapter(KEYS[key]).validate_python(raw)
        return _in_range(key, value)
    except ValidationError as error:  # not as the cause: the message has all of it that is for people
        raise ConfigInvalid(f"`{key}` is {shown!r} ({where}): {error.errors()[0]['msg']}", param=key) from None
    except ValueError as error:
        raise ConfigInvalid(f"`{key}` is {shown!r} ({where}): {error}", param=key) from error


def _from_text(kind: Any, text: str) -> Any:
    """Read what flags and variables say as text: sizes, durations, lists and `name=path` pairs."""
    kinds = get_args(kind) or (kind,)
    if type(None) in kinds and text.lower() in ("", "none"):
        return None
    if int in kinds:
        return parse_size(text)
    if float in kinds:
        return parse_duration(text)
    if get_origin(kind) is tuple:
        return [item for item in re.split(f"[,{os.pathsep}]" if Path in kinds else ",", text) if item]
    if get_origin(kind) is dict:
        return json.loads(text) if text.lstrip().startswith("{") else _pairs(filter(None, text.split(",")))
    return text


def _pairs(items: Iterable[str]) -> dict[str, str]:
    """Read `NAME=PATH`, or vLLM's `{"name": ..., "path": ...}`, of which each name may come once."""
    pairs: dict[str, str] = {}
    for item in items:
        if item.lstrip().startswith("{"):
            given = json.loads(item)
            name, path = str(given.get("name", "")), str(given.get("path", ""))
        else:
            name, _, path = item.partition("=")
        if not name.strip() or not path.strip():
            raise ValueError(f"{item!r} is not NAME=PATH")
        if name in pairs:
            raise ValueError(f"{name!r} is there twice")
        pairs[name.strip()] = path.strip()
    return pairs


def _in_range(key: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    low, high = (0, 65535) if key == "server.port" else (1, 2**53) if isinstance(value, int) else (0.001, 1e9)
    if not low <= value <= high:
        raise ValueError(f"it must be from {low} to {high}")
    return value


def _expanded(value: Any) -> Any:
    if isinstance(value, Path):
        return value.expanduser()
    return tuple(_expanded(item) for item in value) if isinstance(value, tuple) else value


def _built(values: Mapping[str, Any], sources: Mapping[str, str]) -> Settings:
    tree: dict[str, dict[str, Any]] = {"": {"home": Settings().home}, "engine": {}, "server": {}}
    for key, value in values.items():
        part, _, name = key.rpartition(".")
        tree[part][name] = value
    top = {name: _expanded(value) for name, value in tree[""].items()}
    engine, server = ({name: _expanded(value) for name, value in tree[part].items()} for part in ("engine", "server"))
    return Settings(engine=EngineConfig(**engine), server=ServerConfig(**server), sources=dict(sources), **top)


def _lookup(settings: Settings, key: str) -> Any:
    value: Any = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _shown(key: str, value: Any) -> Any:
    secret = key.endswith(("api_key", "_keys"))
    return "***" if secret and value else value
