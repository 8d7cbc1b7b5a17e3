from __future__ import annotations

from pathlib import Path

import pytest

from loradex.errors import InvalidRequest
from loradex.registry.sources import hub
from loradex.registry.sources.address import located


def test_paths_become_whole_and_addresses_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acme" / "medical").mkdir(parents=True)
    assert located("medical") == str(tmp_path / "medical")
    assert located("../x", tmp_path / "inner") == str(tmp_path / "x")
    assert located("acme/medical") == str(tmp_path / "acme/medical")
    assert located("acme/legal") == str(tmp_path / "acme/legal")  # rather a slip than the Hub
    assert located("other/legal@v1") == "hf://other/legal@v1"
    assert located("./acme/legal") == str(tmp_path / "acme/legal")
    assert located("s3://bucket/a/") == "s3://bucket/a/"


@pytest.mark.parametrize("url", ["hf://acme/medical", "hf://acme/medical@v1", "hf://acme/medical@v1/checkpoint-20/x"])
def test_hub_places_are_read_and_written(url: str) -> None:
    assert str(hub.parse(url)) == url
    assert hub.parse("hf://acme/medical@refs%2Fpr%2F1").revision == "refs/pr/1"


@pytest.mark.parametrize("url", ["hf://", "hf://acme", "hf://acme/a..b", "hf://a/b/../c", "hf://a/b@", "hf://-a/b"])
def test_what_names_no_place_on_the_hub_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        hub.parse(url)
