from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio

from .conftest import App
from .test_completions import events


@pytest_asyncio.fixture
async def digests(app: App) -> list[str]:
    return [(await app.add(name, seed=seed)).json()["digest"] for seed, name in enumerate(("medical", "legal"))]


def label(digests: list[str], *weights: str) -> str:
    return "+".join(digest[:8] + weight for digest, weight in sorted(zip(digests, weights, strict=True)))


MIX = [{"name": "medical", "weight": 0.7}, {"name": "legal@1", "weight": 0.3}]


@pytest.mark.parametrize(
    "body", [{"model": "medical*0.7+legal@1*0.3"}, {"adapters": MIX}, {"model": "tiny-base", "adapters": MIX}]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_mix_answers_and_says_who(app: App, digests: list[str], body: dict[str, Any], stream: bool) -> None:
    said = label(digests, "*0.7", "*0.3")
    for reply in (await app.chat(**body, stream=stream), await app.complete(**body, stream=stream, max_tokens=60)):
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-loradex-adapter"] == "medical@1*0.7+legal@1*0.3"
        assert "x-loradex-ignored" not in reply.headers
        first = events(reply.text)[0] if stream else reply.json()
        assert first["model"] == "medical*0.7+legal@1*0.3"
        assert first["system_fingerprint"].endswith(f"{digests[0][:12]}*0.7+{digests[1][:12]}*0.3")
        if not stream:
            choice = first["choices"][0]
            assert (choice.get("text") or choice["message"]["content"]).startswith(f"{said}: ")


async def test_all_prompts_of_a_request_run_on_one_mix(app: App, digests: list[str]) -> None:
    reply = await app.complete(adapters=MIX, prompt=["one", "two"], max_tokens=60)
    said = label(digests, "*0.7", "*0.3")
    assert [choice["text"] for choice in reply.json()["choices"]] == [f"{said}: one", f"{said}: two"]


async def test_one_adapter_with_a_weight_and_none_at_all(app: App, digests: list[str]) -> None:
    reply = await app.complete(adapters=[{"name": "legal", "weight": -2}], max_tokens=40)
    assert reply.json()["choices"][0]["text"] == f"{digests[1][:8]}*-2: hello"
    reply = await app.complete(model="legal", adapters=[], max_tokens=40)
    assert reply.json()["choices"][0]["text"] == f"{digests[1][:8]}: hello"


@pytest.mark.parametrize(
    ("body", "status", "param", "said"),
    [
        ({"model": "medical*0.5+medical"}, 400, "model", "`medical` twice"),
        ({"model": "medical*1000"}, 400, "model", "from -100 to 100"),
        ({"model": "medical*0.5+nobody"}, 404, "model", "`nobody`"),
        ({"model": "medical", "adapters": MIX}, 400, "adapters", "Both `model` and `adapters`"),
        ({"adapters": [*MIX, {"name": "medical"}]}, 400, "adapters", "`medical` twice"),
        ({"adapters": [{"name": "le gal"}]}, 400, "adapters", "'le gal'"),
        ({"adapters": [{"name": "base"}]}, 400, "adapters", "`base` is no adapter"),
        ({"adapters": [{"name": "medical", "weight": 1e9}]}, 400, "adapters", "from -100 to 100"),
        ({"adapters": [{"name": "medical", "scale": 0.5}]}, 400, "adapters.0.scale", "scale"),
        ({"adapters": [{"name": "medical", "weight": "0.5"}]}, 400, "adapters.0.weight", "number"),
        ({"adapters": [{"weight": 0.5}]}, 400, "adapters.0.name", "name"),
        ({"adapters": "medical"}, 400, "adapters", "list"),
        ({"adapters": [{"name": f"a{i}"} for i in range(17)]}, 400, "adapters", "at most 16"),
    ],
)
async def test_what_is_no_mix_is_refused(
    app: App, digests: list[str], body: dict[str, Any], status: int, param: str, said: str
) -> None:
    reply = await app.complete(**body)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (status, param), error
    assert said in error["message"]
    assert app.deck.engine.stats().running == 0
