"""The demo on the fake engine: the same code, with adapters whose answers are known beforehand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from loradex.adapters.digest import digest
from loradex.cli.demo import _shown
from loradex.cli.demo_assets import EXPERTS, FOLDER, read_assets
from loradex.cli.output import Output
from loradex.cli.scenario import Claim, Facts
from loradex.engine.fake import FakeEngine
from loradex.errors import AdapterDamaged, FilesNotFound
from tests.cli.conftest import Loradex
from tests.server.serving import save_adapter

Ship = Callable[..., Path]


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ship:
    def make(*, lies: bool = False) -> Path:
        folder = tmp_path / "assets"
        said = {}
        for seed, name in enumerate((*EXPERTS, "medical-v2")):
            said[name] = digest(save_adapter(folder / "adapters" / name, seed=seed))[:8]
        (folder / "base").mkdir()
        (folder / "base" / "config.json").write_text("{}")
        shipped = json.loads((FOLDER / "questions.json").read_text())["domains"]
        domains = {"general": shipped["general"]}
        for domain in EXPERTS:
            question = f"What does {domain} say?"
            speakers = [domain, "medical-v2"] if domain == "medical" else [domain]
            expected = {who: f"{said[who]}: user: {question}\nassistant:" for who in speakers}
            if lies and domain == "legal":
                expected = dict.fromkeys(speakers, "something else")
            more = [{**each, "expected": {}} for each in shipped[domain]]  # the router learns from the real ones
            domains[domain] = [{"id": f"{domain}-1", "question": question, "expected": expected}, *more]
        (folder / "questions.json").write_text(json.dumps({"domains": domains}))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files]
        (folder / "SHA256SUMS").write_text("".join(sums))
        return folder

    # A replacement falls into a stream at any pace: streams go on until it is done. Half of one takes a second here,
    # so that a busy machine still tells its end before the stream's.
    monkeypatch.setattr(
        "loradex.engine.factory.make_engine",
        lambda name, config: FakeEngine(config, tokens_per_second=200),
    )
    return make


def test_everything_that_is_shown_is_true(loradex: Loradex, ship: Ship, capfd: pytest.CaptureFixture[str]) -> None:
    ran = loradex("demo", "--assets", ship(), "--engine", "fake", "--json")
    facts = ran.json
    assert [claim for claim in facts["claims"] if not claim["holds"]] == []
    assert (ran.code, facts["ok"]) == (0, True)
    assert facts["batch_answers"] == 12
    assert [row["knows"] for row in facts["rows"]] == [[name] for name in EXPERTS]
    assert [row["adapter"] for row in facts["routed"]] == ["medical@1", "legal@1", "technical@1", "base"]
    assert [side["side"] for side in facts["compared"]["sides"]] == ["base", "medical@1", "legal@1", "technical@1"]
    change = facts["replace"]
    assert (change["stream"], change["next"]) == ("medical@1", "medical@2")
    assert change["pieces_after"] > 0
    assert change["digest"] != change["previous_digest"]

    # The same facts, as a person sees them.
    facts.pop("ok")
    claims = [Claim(**each) for each in facts.pop("claims")]
    Output().data({}, _shown(Facts(**facts, claims=claims)))
    shown = capfd.readouterr().out
    for text in ("medical@1", "medical@2", "time per token", "switch", "PERPLEXITY", "* ", *EXPERTS):
        assert text in shown


def test_what_is_not_so_makes_it_fail(loradex: Loradex, ship: Ship) -> None:
    ran = loradex("demo", "--assets", ship(lies=True), "--engine", "fake", "--json")
    assert (ran.code, ran.json["ok"]) == (1, False)
    assert [claim["what"] for claim in ran.json["claims"] if not claim["holds"]] == [
        "only legal knows: What does legal say?"
    ]


def test_changed_or_missing_files_are_found_first(loradex: Loradex, ship: Ship, tmp_path: Path) -> None:
    folder = ship()
    assert len(read_assets(folder).questions) == 35
    (folder / "base" / "config.json").write_text("{ }")
    with pytest.raises(AdapterDamaged, match="config"):
        read_assets(folder)
    with pytest.raises(FilesNotFound):
        read_assets(tmp_path / "nothing")
    assert loradex("demo", "--assets", folder).code == 1
