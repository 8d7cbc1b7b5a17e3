"""A file of settings, in TOML or YAML; in YAML also in the words of TensorRT-LLM's `extra_llm_api_options`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from loradex.arguments.arguments import ARGUMENTS, CONFIGS, as_settings
from loradex.arguments.yaml_file import YamlFile, read_yaml
from loradex.errors import ConfigInvalid, LoradexError, near
from loradex.registry.sources.address import located

Layer = dict[str, tuple[Any, str]]
"""Settings by their dotted keys: each value, and where it came from."""

_PLACES = ("checked_adapters",)
"""Settings that hold paths or addresses as text."""


def read_layer(path: Path, known: Mapping[str, Any]) -> Layer:
    """Return the settings of a file; relative paths in it count from its folder.

    Args:
        path: YAML where it ends in `.yaml` or `.yml`, else TOML.
        known: the type of each setting, by its dotted key.

    Raises:
        ConfigInvalid: it cannot be read, or a name in it is unknown or has a value that is none.
        Unsupported: it asks for what is not offered.
    """
    found = _from_yaml(read_yaml(path), known) if path.suffix in (".yaml", ".yml") else _from_toml(path, known)
    return {key: (_beside(path, key, known[key], value), source) for key, (value, source) in found.items()}


def unknown(key: str, where: str, known: Iterable[str]) -> ConfigInvalid:
    """Return the refusal of a name, with the one that it looks like."""
    close = near(key, known)
    hint = f"Did you mean `{close[0]}`?" if close else "See every setting with `loradex config show`"
    return ConfigInvalid(f"`{key}` in {where} is not a setting", hint=hint, param=key)


def _from_toml(path: Path, known: Mapping[str, Any]) -> Layer:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigInvalid(
            f"The settings file `{path}` cannot be read", hint="Name another with `--config`"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"The settings file `{path}` is not valid TOML: {error}") from error
    layer: Layer = {}
    for names, value in _flat(tree, known):
        key = ".".join(names)
        if key not in known:
            raise unknown(key, f"`{path}`", known)
        layer[key] = (value, str(path))
    return layer


def _from_yaml(file: YamlFile, known: Mapping[str, Any]) -> Layer:
    sections = {key.partition(".")[0] for key in known if "." in key}
    arguments: dict[str, Any] = {}
    layer: Layer = {}
    for name, value in file.values.items():
        ours = isinstance(value, dict) if name in sections else name in known
        if not ours and name in ARGUMENTS:
            arguments[name] = _config(file, name, value) if name in CONFIGS else value
            continue
        if not ours and name not in sections:
            raise unknown(str(name), file.at(str(name)), [*known, *sections, *ARGUMENTS])
        for names, each in _flat({name: value}, known):
            key = ".".join(names)
            if key not in known:
                inner = [each.removeprefix(f"{name}.") for each in known if each.startswith(f"{name}.")]
                raise unknown(".".join(names[1:]), f"{file.at(*names)}, `{name}`", inner)
            layer[key] = (each, file.at(*names))
    for key, value, where in _translated(file, arguments):
        if key in layer and layer[key][0] != value:
            said = f"`{key}` is {layer[key][0]!r} ({layer[key][1]}) and {value!r} ({where})"
            raise ConfigInvalid(said, hint="Give it in one place", param=key)
        layer[key] = (value, where)
    return layer


def _translated(file: YamlFile, arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield the settings that arguments of other systems mean, each with the place of its argument."""
    try:
        as_settings(arguments, str(file.values.get("model", "")))  # what contradicts one another shows together only
    except LoradexError as error:
        raise _placed(error, file) from error
    for name, value in arguments.items():
        for key, meant in as_settings({name: value}, str(file.values.get("model", ""))).items():
            names = (name, key.rpartition(".")[2])
            yield key, meant, file.at(*names) if names in file.lines else file.at(name)


def _placed(error: LoradexError, file: YamlFile) -> LoradexError:
    """Return an error with the line of the name that it is about."""
    lines = [line for names, line in file.lines.items() if names[-1] == error.param]
    at = f"{file.path}, line {lines[-1]}" if lines else str(file.path)
    return type(error)(f"{at}: {error.message}", hint=error.hint, param=error.param)


def _config(file: YamlFile, name: str, value: Any) -> Any:
    """Return one of TensorRT-LLM's configurations."""
    from pydantic import TypeAdapter, ValidationError

    kind = CONFIGS[name]
    fields = TypeAdapter(kind).json_schema()["properties"]
    for inner in value if isinstance(value, dict) else ():
        if inner not in fields:
            raise unknown(str(inner), f"{file.at(name, str(inner))}, `{name}`", fields)
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        inner = str(first["loc"][0]) if first["loc"] else ""
        what = f"`{name}.{inner}` is {first['input']!r}" if inner else f"`{name}` is {value!r}"
        where = file.at(name, inner) if inner else file.at(name)
        raise ConfigInvalid(f"{where}: {what}: {first['msg']}", param=inner or name) from error
    except LoradexError as error:
        raise _placed(error, file) from error


def _flat(tree: Mapping[str, Any], known: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[Any]:
    for name, value in tree.items():
        names = (*above, str(name))
        if isinstance(value, dict) and ".".join(names) not in known and (value or not above):
            yield from _flat(value, known, names)
        else:
            yield names, value


def _beside(path: Path, key: str, kind: Any, value: Any) -> Any:
    """Read relative paths of a file as relative to that file."""

    def joined(item: Any) -> Any:
        return str(path.parent / Path(item).expanduser()) if isinstance(item, str) else item

    def place(item: Any) -> Any:
        return located(item, path.parent) if isinstance(item, str) else item

    if kind in (Path, Path | None):
        return joined(value) if value else value
    if Path in get_args(kind) and isinstance(value, list):
        return [joined(item) for item in value]
    if key in _PLACES and isinstance(value, list | tuple):
        return [place(item) for item in value]
    if get_origin(kind) is dict and isinstance(value, dict):
        return {name: place(item) for name, item in value.items()}
    return value
