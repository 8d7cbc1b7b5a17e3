"""Whatever is sent, the server answers with what its OpenAPI promises, and never with a 500."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, openapi
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from .serving import Deck, eventually, save_adapter, served

CHECKS = [not_a_server_error, response_schema_conformance, content_type_conformance]
PATIENT = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck), report_multiple_bugs=False
)
DEEP = ("/v1/completions", "/v1/chat/completions", "/api/adapters")
MODELS = st.sampled_from([None, "", "base", "tiny-base", "medical", "medical@1", "medical@9", "tiny-base:medical"])


@pytest.fixture(scope="module")
def deck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deck]:
    with served(tmp_path_factory.mktemp("fuzz")) as deck:
        folder = save_adapter(deck.folder / "medical")
        for _ in range(2):
            httpx.post(f"{deck.url}/api/adapters", json={"name": "medical", "path": str(folder)}).raise_for_status()
        yield deck
        assert httpx.get(f"{deck.url}/ready").status_code == 200
        assert eventually(deck.idle)


def _aim(case: Any, model: str | None) -> None:
    """Let a call mean something that exists: made-up names would all end in the same 404."""
    if isinstance(case.body, dict) and "model" in case.body:
        case.body["model"] = model
    if isinstance(case.body, dict) and "adapter" in case.body:
        case.body["adapter"] = model or "medical"
    if case.method != "DELETE" and "name" in (case.path_parameters or {}):
        case.path_parameters["name"] = "medical"
    if "model_id" in (case.path_parameters or {}):
        case.path_parameters["model_id"] = model or "base"


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_openapi_holds_for_every_route(deck: Deck, mode: GenerationMode) -> None:
    schema = openapi.from_url(f"{deck.url}/openapi.json")
    seen = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters):
            continue  # there is nothing to get wrong

        @settings(PATIENT, max_examples=20 if operation.path in DEEP else 5)
        @given(case=operation.as_strategy(generation_mode=mode), model=MODELS)
        def holds(case: Any, model: str | None) -> None:
            nonlocal seen
            seen += 1
            if mode is GenerationMode.POSITIVE:
                _aim(case, model)
            case.validate_response(case.call(), checks=CHECKS)

        holds()
    assert seen > 80


FIELDS = {
    "/v1/completions": ["prompt", "model", "n", "stop", "stop_token_ids", "logit_bias", "logprobs", "seed", "stream"],
    "/v1/chat/completions": [
        "messages",
        "chat_template_kwargs",
        "response_format",
        "structured_outputs",
        "guided_json",
        "tools",
    ],
    "/v1/load_lora_adapter": ["lora_name", "lora_path", "load_inplace", "lora_int_id"],
    "/v1/completions#who": ["lora_request", "lora_path", "adapter_id", "adapter_source", "merged_adapters", "lora"],
    "/generate": ["inputs", "parameters", "stream"],
    "/completion": ["prompt", "lora", "n_predict", "stop", "seed", "stream"],
    "/load_lora_adapter": ["lora_name", "lora_path", "pinned"],
    "/v1/unload_lora_adapter": ["lora_name", "lora_int_id"],
    "/api/adapters": ["name", "path", "mode", "replace"],
    "/api/adapters:check": ["path"],
    "/api/resident": ["adapter"],
}
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 256, 257, 2**31, 2**63, 10**400, -(10**400), 1e308, 5e-324, float("inf"), float("nan")])
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(["\ud800", "a\0b", "../..", "/etc/passwd", "x" * 5000, "medical", "%s{}", "\u202e", "base:"])
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "5", "\ud800"]), inner, max_size=4)
    ),
    max_leaves=8,
)
BODIES = st.sampled_from(sorted(FIELDS)).flatmap(
    lambda path: st.tuples(
        st.just(path),
        st.dictionaries(st.sampled_from([*FIELDS[path], "extra\n", "\udfff"]), JUNK, min_size=1),
        st.booleans(),
    )
)


SOUND = {
    "/v1/completions": {"prompt": "hi"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/load_lora_adapter": {"lora_name": "a", "lora_path": "b"},
    "/v1/completions#who": {"prompt": "hi"},
    "/generate": {"inputs": "hi"},
    "/completion": {"prompt": "hi", "n_predict": 2},
    "/load_lora_adapter": {"lora_name": "a", "lora_path": "b"},
    "/v1/unload_lora_adapter": {"lora_name": "a"},
    "/api/adapters": {"name": "a", "path": "b"},
    "/api/adapters:check": {"path": "b"},
    "/api/resident": {"adapter": "medical"},
}
"""Bodies that are fine, in which the junk is put."""


def test_junk_in_any_field_is_refused_or_answered(deck: Deck) -> None:
    with httpx.Client(base_url=deck.url, headers={"content-type": "application/json"}) as client:

        @settings(PATIENT, max_examples=250)
        @given(BODIES)
        def survives(call: tuple[str, dict[str, Any], bool]) -> None:
            path, junk, alone = call
            body = junk if alone else {**SOUND[path], **junk}
            reply = client.post(path, content=json.dumps(body).encode())
            assert reply.status_code < 500, (path, body, reply.text)
            if reply.status_code >= 400:
                error = reply.json().get("error") or reply.json()["error_message"]
                assert error["message"] if isinstance(error, dict) else error

        survives()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"{" * 50_000,
        b'{"a":' * 50_000,
        b'{"prompt": "' + b"\\ud800" * 3 + b'"}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b'{"temperature": 1e999999, "prompt": "a"}',
        b'{"prompt": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"chat_template_kwargs": {"a": ' + b"[" * 500 + b"]" * 500 + b'}, "messages": [{"role": "user"}]}',
        b'\xef\xbb\xbf{"prompt": "a"}',
    ],
)
def test_raw_bodies_that_break_parsers(deck: Deck, raw: bytes) -> None:
    for path in FIELDS:
        reply = httpx.post(f"{deck.url}{path}", content=raw, headers={"content-type": "application/json"})
        assert reply.status_code in (200, 400, 422), path
