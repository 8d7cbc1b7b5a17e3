from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradex.cli.config import template
from loradex.errors import ConfigInvalid
from loradex.settings import KEYS, Settings, parse_duration, parse_size, variable


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_flag_beats_environment_beats_file_beats_default(elsewhere: Path) -> None:
    (elsewhere / "loradex.toml").write_text("[engine]\nmax_loras = 3\nmax_lora_rank = 3\nblock_size = 3\n")
    environ = {"LORADEX_ENGINE__MAX_LORAS": "4", "LORADEX_ENGINE__MAX_LORA_RANK": "4"}
    settings = Settings.read({"engine.max_loras": "5", "engine.threads": None}, environ=environ)
    engine = settings.engine
    assert (engine.max_loras, engine.max_lora_rank, engine.block_size, engine.max_num_seqs) == (5, 4, 3, 64)
    sources = {each.key: each.source for each in settings.describe()}
    assert sources["engine.max_loras"] == "flag"
    assert sources["engine.max_lora_rank"] == "environment"
    assert sources["engine.block_size"] == "loradex.toml"
    assert sources["engine.max_num_seqs"] == sources["engine.threads"] == "default"


def test_settings_made_directly_read_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADEX_ENGINE__MAX_LORAS", "4")
    assert Settings().engine.max_loras == 64


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("engine.kv_cache_memory", "8GiB", 8 << 30),
        ("engine.max_model_len", "4k", 4000),
        ("engine.max_model_len", "none", None),
        ("engine.prefix_cache", "false", False),
        ("engine.dtype", "bfloat16", "bfloat16"),
        ("queue_timeout", "1m30s", 90.0),
        ("server.port", "0", 0),
        ("server.infer_keys", "a,b", ("a", "b")),
        ("server.allow_dirs", "/a:/b", (Path("/a"), Path("/b"))),
        ("adapters", "a=x,b=y=z", {"a": "x", "b": "y=z"}),
        ("adapters", '{"a": "x"}', {"a": "x"}),
    ],
)
def test_environment_values(key: str, text: str, value: Any) -> None:
    settings = Settings.read(environ={variable(key): text})
    assert next(each.value for each in settings.describe() if each.key == key) == (
        "***" if key.endswith("keys") else value
    )


def test_adapters_as_vllm_writes_them() -> None:
    settings = Settings.read({"adapters": ["a=x", '{"name": "b", "path": "y"}']}, environ={})
    assert settings.adapters == {"a": "x", "b": "y"}


@pytest.mark.parametrize("items", [["a"], ["=x"], ["a="], ["a=x", "a=y"], ['{"name": "a"}'], ["{"]])
def test_adapters_that_are_none(items: list[str]) -> None:
    with pytest.raises(ConfigInvalid, match="adapters"):
        Settings.read({"adapters": items}, environ={})


@pytest.mark.parametrize(
    ("environ", "says", "hint"),
    [
        ({"LORADEX_ENGINE__MAX_LORRAS": "1"}, "LORADEX_ENGINE__MAX_LORRAS", "LORADEX_ENGINE__MAX_LORAS"),
        ({"LORADEX_HOMME": "/x"}, "LORADEX_HOMME", "LORADEX_HOME"),
        ({"LORADEX_ENGINE__MAX_LORAS": "many"}, "engine.max_loras.*many.*LORADEX_ENGINE__MAX_LORAS", ""),
        ({"LORADEX_ENGINE__MAX_LORAS": "0"}, "must be from 1", ""),
        ({"LORADEX_SERVER__PORT": "65536"}, "must be from 0 to 65535", ""),
        ({"LORADEX_ENGINE__DTYPE": "int3"}, "bfloat16", ""),
        ({"LORADEX_QUEUE_TIMEOUT": "soon"}, "5m", ""),
        ({"LORADEX_CONFIG": "/nowhere/x.toml"}, "/nowhere/x.toml", "--config"),
    ],
)
def test_what_is_wrong_is_named(environ: dict[str, str], says: str, hint: str) -> None:
    with pytest.raises(ConfigInvalid, match=says) as caught:
        Settings.read(environ=environ)
    assert hint in caught.value.hint


def test_unknown_keys_in_a_file_are_refused_with_a_suggestion(elsewhere: Path) -> None:
    (elsewhere / "loradex.toml").write_text("[engin]\nmax_loras = 3\n")
    with pytest.raises(ConfigInvalid, match=r"engin\.max_loras.*loradex\.toml") as caught:
        Settings.read(environ={})
    assert "engine.max_loras" in caught.value.hint


def test_keys_of_the_server_never_show() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        Settings.read({"server.admin_keys": [1, "secret"]}, environ={})
    assert "secret" not in caught.value.message


def test_what_kubernetes_sets_is_no_setting() -> None:
    environ = {"LORADEX_PORT": "tcp://10.0.0.1:80", "LORADEX_SERVICE_HOST": "10.0.0.1", "LORADEX_PORT_80_TCP": "x"}
    assert Settings.read(environ=environ).sources == {}


def test_an_empty_variable_is_not_set() -> None:
    assert Settings.read(environ={"LORADEX_HOME": ""}).home == Path("~/.loradex").expanduser()


def test_paths_of_a_file_are_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "x.toml").write_text(
        'home = "data"\n[adapters]\na = "a"\nb = "hf://acme/b@v1"\n[server]\nallow_dirs = ["b", "/c"]\n'
        '[engine]\nmodel = "m"\npack_dir = "p"\n'
    )
    settings = Settings.read(config=folder / "x.toml", environ={})
    assert settings.home == folder / "data"
    assert settings.adapters == {"a": str(folder / "a"), "b": "hf://acme/b@v1"}
    assert settings.server.allow_dirs == (folder / "b", Path("/c"))
    assert settings.engine.model == "m"
    assert settings.engine.pack_dir == folder / "p"


def test_the_written_file_changes_nothing_and_holds_every_key(tmp_path: Path) -> None:
    text = template(Settings().describe())
    assert tomllib.loads(text) == {"engine": {}, "server": {}}
    bare = "\n".join(line.removeprefix("# ") for line in text.splitlines()[1:])
    (tmp_path / "all.toml").write_text(bare)
    settings = Settings.read(config=tmp_path / "all.toml", environ={})
    assert set(settings.sources) == set(KEYS)
    assert (settings.engine, settings.server) == (Settings().engine, Settings().server)


@pytest.mark.parametrize(
    ("text", "value"),
    [("4096", 4096), ("4k", 4000), ("4K", 4096), ("25.6k", 25600), ("1_000", 1000), ("2 MiB", 2 << 20), ("1GB", 10**9)],
)
def test_sizes(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "1e3", "4 kk", "٣"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|whole"):
        parse_size(text)


@given(st.integers(0, 2**60))
def test_whole_numbers_are_sizes(number: int) -> None:
    assert parse_size(str(number)) == number
    assert parse_size(f"{number}KiB") == number * 1024


@pytest.mark.parametrize(
    ("text", "value"), [("30", 30.0), ("300ms", 0.3), ("5m", 300.0), ("1h30m", 5400.0), ("1.5s", 1.5)]
)
def test_durations(text: str, value: float) -> None:
    assert parse_duration(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "m", "5 m", "5x", "-5s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)
