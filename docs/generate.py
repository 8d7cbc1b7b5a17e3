"""Write the reference pages from the code, and README's table from the measurements: `python docs/generate.py`.

With `--check`, say what is out of date.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from loradex import errors
from loradex.bench.deck import save_adapter
from loradex.bench.report import gather
from loradex.bench.shape import CLASSES
from loradex.bench.table import read_bars, summary
from loradex.cli.app import PROGRAM, root
from loradex.cli.errors import UsageFailed, exit_code
from loradex.cli.help import help_page
from loradex.core.sampling import Sampling
from loradex.engine.config import EngineConfig
from loradex.engine.fake import FakeEngine
from loradex.registry.registry import Registry
from loradex.server.app import create_app
from loradex.service.generate import Ask
from loradex.service.service import Service
from loradex.settings import KEYS, ServerConfig, Settings, variable

FOLDER = Path(__file__).parent / "reference"
ROOT = FOLDER.parents[1]
BENCHMARKS = ROOT / "benchmarks"
WIDTH = 100
NOTE = "<!-- Written by docs/generate.py from the code. Change the code, then run `make docs`. -->"


def files() -> dict[Path, str]:
    """Return all that is written, by path."""
    return {FOLDER / name: text for name, text in pages().items()} | {ROOT / "README.md": readme()}


def readme() -> str:
    """Return README with the table of what was measured beside what had to be reached."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, begin, rest = text.partition("<!-- measured, by docs/generate.py -->\n")
    _, end, after = rest.partition("<!-- end -->")
    table = summary(gather([BENCHMARKS / "runs"]), read_bars(BENCHMARKS / "bars.json"))
    return f"{before}{begin}{table}\n{end}{after}"


def pages() -> dict[str, str]:
    """Return every reference page by its file name."""
    with tempfile.TemporaryDirectory() as home:
        service = _service(Path(home))
        return {
            "cli.md": cli_page(),
            "http.md": http_page(create_app(service, ServerConfig())),
            "errors.md": errors_page(),
            "settings.md": settings_page(),
            "metrics.md": metrics_page(asyncio.run(_rendered(service, Path(home)))),
        }


def stale() -> Iterator[str]:
    """Yield the differences between the pages on disk and those that the code makes now."""
    for path, text in files().items():
        written = path.read_text(encoding="utf-8") if path.is_file() else ""
        yield from difflib.unified_diff(
            written.splitlines(), text.splitlines(), str(path), "from the code", lineterm=""
        )


def cli_page() -> str:
    """Return the page of the command line."""
    lines = [
        "# Command line",
        NOTE,
        "",
        "Data goes to standard output, talk and progress to standard error. Every command has `--json` and `--quiet`.",
        "Errors have three parts, `error`, `why` and `fix`; with `--json` they are JSON on standard error.",
        "",
        "| Exit code | Means |",
        "| --: | --- |",
        "| 0 | done |",
        "| 1 | failed |",
        "| 2 | the command or a setting is wrong |",
        "| 3 | what was named does not exist |",
        "| 4 | no server answers |",
        "| 130 | interrupted |",
    ]
    for path in _commands(root()):
        page = help_page(root(), [*path, "--help"], PROGRAM, width=WIDTH) or ""
        lines += ["", f"## loradex {' '.join(path)}".rstrip(), "", "```text", page.strip(), "```"]
    return _text(lines)


def _commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name)


def http_page(app: FastAPI) -> str:
    """Return the page of the HTTP routes."""
    schema = app.openapi()
    lines = [
        "# HTTP",
        NOTE,
        "",
        "The same, for machines, is at `/openapi.json` of a running server; `/docs` lets you try it.",
        "",
        "| Route | What |",
        "| --- | --- |",
    ]
    routes = [
        (f"{verb.upper()} {path}", call) for path, verbs in schema["paths"].items() for verb, call in verbs.items()
    ]
    lines += [f"| [`{title}`](#{_anchor(title)}) | {_first(call.get('description', ''))} |" for title, call in routes]
    for title, call in routes:
        lines += ["", f"## {title}", "", call.get("description", "").strip(), *_route(schema, call)]
    return _text(lines)


def _anchor(title: str) -> str:
    return "".join(each for each in title.lower().replace(" ", "-") if each.isalnum() or each in "-_")


def _route(schema: Mapping[str, Any], call: Mapping[str, Any]) -> Iterator[str]:
    if call.get("parameters"):
        yield from ("", "| Parameter | In | Type | |", "| --- | --- | --- | --- |")
        for each in call["parameters"]:
            means = _cell(each.get("description", ""))
            yield f"| `{each['name']}` | {each['in']} | {_type(each['schema'])} | {means} |"
    body = call.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body is not None:
        yield from _fields(schema, body)
    yield ""
    yield "Answers: " + ", ".join(
        f"{code} ({_first(each.get('description', ''))})" for code, each in sorted(call["responses"].items())
    )


def _fields(schema: Mapping[str, Any], body: Mapping[str, Any]) -> Iterator[str]:
    shape = _resolved(schema, body)
    required = set(shape.get("required", ()))
    yield from ("", "| Field | Type | Default | |", "| --- | --- | --- | --- |")
    for name, each in shape.get("properties", {}).items():
        default = "required" if name in required else f"`{each['default']}`" if "default" in each else ""
        yield f"| `{name}` | {_type(each)} | {default} | {_cell(each.get('description', ''))} |"


def _resolved(schema: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    for option in part.get("anyOf", ()):
        if "$ref" in option:
            return _resolved(schema, option)
    if "$ref" in part:
        found: Mapping[str, Any] = schema["components"]["schemas"][part["$ref"].rpartition("/")[2]]
        return found
    return part


def _type(part: Mapping[str, Any]) -> str:
    if "$ref" in part:
        return str(part["$ref"]).rpartition("/")[2]
    if "anyOf" in part:
        return " or ".join(dict.fromkeys(_type(each) for each in part["anyOf"]))
    if "enum" in part:
        return " or ".join(f"`{each}`" for each in part["enum"])
    if part.get("type") == "array":
        return f"list of {_type(part.get('items', {}))}"
    return str(part.get("type", "any"))


def errors_page() -> str:
    """Return the page of the errors."""
    lines = [
        "# Errors",
        NOTE,
        "",
        "Each error has a stable code, a message, a fix and an HTTP status. Python raises them as classes of",
        "`loradex.errors`, HTTP has them in OpenAI's envelope, and the command line prints `error`, `why`, `fix`.",
        "",
        "| Class | Code | HTTP | Exit | Means | Fix |",
        "| --- | --- | --: | --: | --- | --- |",
    ]
    for cls in _classes(errors.LoradexError):
        code = exit_code(cls.__new__(cls))
        means = _first(cls.__doc__ or "")
        lines.append(f"| {cls.__name__} | `{cls.code}` | {cls.status} | {code} | {means} | {_cell(cls.default_hint)} |")
    return _text(lines)


def _classes(cls: type[errors.LoradexError]) -> Iterator[type[errors.LoradexError]]:
    yield cls
    for child in cls.__subclasses__():
        if child is not UsageFailed:
            yield from _classes(child)


def settings_page() -> str:
    """Return the page of the settings."""
    lines = [
        "# Settings",
        NOTE,
        "",
        "A flag beats the environment, the environment beats the file, the file beats the default.",
        "`loradex config show` says what holds and why; `loradex config init` writes a file with everything in it.",
        "",
        "| Key in `loradex.toml` | Environment | Default | |",
        "| --- | --- | --- | --- |",
    ]
    meanings = _attributes(EngineConfig, "engine.") | _attributes(ServerConfig, "server.") | _attributes(Settings, "")
    for each in Settings().describe():
        shown = "" if each.value in (None, "", (), {}) else f"`{each.value}`"
        lines.append(f"| `{each.key}` | `{variable(each.key)}` | {shown} | {_cell(meanings[each.key])} |")
    lines += [
        "",
        "`LORADEX_CONFIG` names the file, `LORADEX_NO_PROGRESS` and `NO_COLOR` keep bars and colours away, and",
    ]
    lines += ["`LORADEX_DEBUG` shows where a defect happened."]
    return _text(lines)


def _attributes(cls: type, prefix: str) -> dict[str, str]:
    """Return what the docstring of a class says of each setting."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in (cls.__doc__ or "").partition("Attributes:")[2].splitlines():
        head, colon, text = line.strip().partition(": ")
        given = [name.strip() for name in head.split(",")]
        if colon and all(prefix + name in KEYS or name == "sources" for name in given):
            names = [prefix + name for name in given]
            found |= dict.fromkeys(names, text)
        elif line.strip() and names:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


async def _rendered(service: Service, home: Path) -> str:
    """Return the metrics of a service whose adapter has answered one request, so that no series is missing."""
    await service.start()
    try:
        folder = save_adapter(home / "adapter", service.info.linears, CLASSES["a-small"], 0)
        await service.adapters.add("example", folder, trusted=True)
        answer = await service.generate(Ask("example", "hello", Sampling()))
        async for _ in answer.events():
            pass
        return service.metrics.render().decode()
    finally:
        await service.stop()


def metrics_page(rendered: str) -> str:
    """Return the page of the metrics."""
    lines = [
        "# Metrics",
        NOTE,
        "",
        "At `/metrics`, in Prometheus' text format. Names that begin with `vllm:` mean what they mean in vLLM, so that",
        "gateways made for it work.",
        "",
        "| Name | Kind | Labels | |",
        "| --- | --- | --- | --- |",
    ]
    for family in text_string_to_metric_families(rendered):
        if family.name.endswith("_created"):  # when a series began; every client library adds it
            continue
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le", "quantile"})
        name = f"{family.name}_total" if family.type == "counter" else family.name
        shown = ", ".join(f"`{each}`" for each in labels)
        lines.append(f"| `{name}` | {family.type} | {shown} | {_cell(family.documentation)} |")
    return _text(lines)


def _service(home: Path) -> Service:
    engine = FakeEngine(EngineConfig(model="base"))
    return Service(Registry(home), engine, max_lora_rank=64, adapter_memory=1 << 30, adapter_host_memory=1 << 30)


def _first(text: str) -> str:
    """Return the first sentence, fit for a table."""
    return _cell(text.strip().split("\n\n")[0])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _text(lines: list[str]) -> str:
    return "\n".join(line.rstrip() for line in lines) + "\n"


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say what is out of date")
    if parser.parse_args().check:
        differences = list(stale())
        print("\n".join(differences) or "the reference is up to date")
        if differences:
            print("fix: make docs", file=sys.stderr)
        return 1 if differences else 0
    FOLDER.mkdir(exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
