"""What lies in deploy/ fits together, and names only what the server has. No container is built here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "loradex.json").read_text())
RULES = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
COMPOSE = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())


def metrics() -> dict[str, set[str]]:
    """Return the labels of every metric that can be asked for, from the page that is made from the code."""
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    found: dict[str, set[str]] = {"up": {"job", "instance"}}
    for name, kind, labels in re.findall(r"^\| `([\w:]+)` \| (\w+) \| ([^|]*) \|", page, re.MULTILINE):
        own = set(re.findall(r"`(\w+)`", labels)) | {"instance", "job"}
        if kind == "histogram":
            found |= {f"{name}_{part}": own | {"le"} for part in ("bucket", "sum", "count")}
        else:
            found[name] = own
    return found


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for group in RULES["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    yield "annotation", DASHBOARD["annotations"]["list"][0]["expr"]
    yield "variable", DASHBOARD["templating"]["list"][0]["query"]["query"]


def test_every_metric_and_label_that_is_asked_for_exists() -> None:
    known = metrics()
    asked = set()
    for title, expression in expressions():
        names = set(re.findall(r"\b(?:loradex_|vllm:)\w+|\bup\b", expression))
        assert names, f"{title} asks for no metric"
        assert names <= known.keys(), f"{title} asks for {names - known.keys()}"
        asked |= names
        labels = {
            label for inner in re.findall(r"\{(.*?)\}", expression) for label in re.findall(r"(\w+)\s*[=!]", inner)
        }
        labels |= {each for by in re.findall(r"\bby \(([^)]*)\)", expression) for each in re.split(r",\s*", by)}
        allowed = set.union(*(known[name] for name in names))
        assert labels <= allowed, f"{title}: {names} have no label {labels - allowed}"
    per_adapter = {name for name, labels in known.items() if {"adapter", "version"} <= labels and "le" not in labels}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    unseen = {re.sub(r"_(sum|count)$", "", name) for name in per_adapter} - shown
    assert unseen <= {"loradex_adapter_evicted_total", "loradex_adapter_last_load_seconds"}


def test_the_dashboard_can_be_provisioned() -> None:
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/loradex.yml").read_text())["providers"][0]
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    mounts = dict(each.split(":")[:2] for each in COMPOSE["services"]["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for one in DASHBOARD["panels"]:
        for other in DASHBOARD["panels"]:
            assert one is other or not _overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def _overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    return all(a[at] < b[at] + b[size] and b[at] < a[at] + a[size] for at, size in (("x", "w"), ("y", "h")))


def test_every_alert_says_what_and_how_to_mend_it() -> None:
    for group in RULES["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["summary"]
            for command in re.findall(r"loradex ([a-z]+(?: [a-z]+)?)", rule["annotations"].get("fix", "")):
                page = (ROOT / "docs/reference/cli.md").read_text()
                assert f"## loradex {command}" in page or f"## loradex {command.split()[0]}\n" in page


def test_what_compose_names_is_there() -> None:
    services: dict[str, Any] = COMPOSE["services"]
    assert (DEPLOY / services["loradex"]["build"]["context"] / services["loradex"]["build"]["dockerfile"]).is_file()
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).is_dir(), volume
            elif not source.startswith("$"):
                assert source in COMPOSE["volumes"], volume
        assert not any(port.startswith(("0.0.0.0", "$")) for port in service["ports"]), "ports are this machine's own"
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    assert all((DEPLOY / "prometheus" / name).is_file() for name in config["rule_files"])
    assert config["scrape_configs"][0]["static_configs"][0]["targets"] == ["loradex:8000"]


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (DEPLOY / "Dockerfile").read_text()


def test_the_image_runs_as_nobody_in_particular_and_tells_its_health(dockerfile: str) -> None:
    stages = re.findall(r"^FROM (\S+)(?: AS (\w+))?", dockerfile, re.MULTILINE)
    assert len(stages) == 2
    last = dockerfile.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9][0-9]*$", last, re.MULTILINE)
    assert "HEALTHCHECK" in last
    assert "/ready" in last


def test_the_build_is_sent_all_that_it_copies(dockerfile: str) -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert "*" in lines
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE):
        for name in copied.split():
            assert (ROOT / name).exists()
            assert any(fnmatch(name, pattern) for pattern in sent), name


def test_torch_is_of_the_range_that_the_project_allows(dockerfile: str) -> None:
    wanted = re.search(r'"(torch>=[^"]+)"', dockerfile)
    assert wanted is not None
    assert f'"{wanted[1]}"' in (ROOT / "pyproject.toml").read_text()
