"""Answers that are held to a form, beside others that are not."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from loradex.core.grammar import Grammar
from loradex.core.mix import Mix
from loradex.core.sampling import Sampling
from loradex.engine.local import constraint as constraints
from loradex.engine.local.constraint import Constraints
from loradex.engine.local.engine import LocalEngine
from loradex.engine.local.sampler import sample
from loradex.engine.local.sequence import Sequence
from loradex.errors import EngineFailed, InvalidRequest
from tests.engine.contract.asking import Whole, begin, whole

from .tiny import EOS, Family, Running

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 10, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
}
FORMS = [
    Grammar.json(SCHEMA),
    None,
    Grammar("choice", json.dumps(["yes", 'n"ö\n'])),
    Grammar("regex", "[a-c]{3}-[0-9]{2}"),
    Grammar("grammar", 'root ::= item ("," item)?\nitem ::= "x" | "y"'),
]


async def ask(engine: LocalEngine, grammar: Grammar | None, mix: Mix[str] | None = None, **sampling: object) -> Whole:
    wanted = {"temperature": 1.0, "seed": 3, "max_tokens": 150, "grammar": grammar} | sampling
    return await whole(begin(engine, mix, **wanted))


async def test_every_form_is_kept_to_in_one_batch_and_no_row_changes_another(
    family: Callable[[str], Family], running: Running
) -> None:
    async with running(family("qwen2")) as engine:
        adapters = [Mix(), *(Mix.of(each.digest) for each in family("qwen2").adapters)]
        asked = [(form, adapters[i % len(adapters)], i) for i in range(3) for form in FORMS]
        together = await asyncio.gather(*(ask(engine, form, mix, seed=seed) for form, mix, seed in asked))
        for (form, mix, seed), answer in zip(asked, together, strict=True):
            assert answer.tokens == (await ask(engine, form, mix, seed=seed)).tokens
            if form is not None:
                assert answer.end.reason == "stop"
        for start in range(0, len(asked), len(FORMS)):
            person, free, choice, pattern, items = (answer.text for answer in together[start : start + len(FORMS)])
            found = json.loads(person)
            assert list(found) == ["name", "age", "tags"]
            assert 10 <= found["age"] <= 99
            assert len(found["name"]) <= 6
            assert {*found["tags"]} <= {"red", "blue"}
            assert choice in ("yes", 'n"ö\n')
            assert re.fullmatch("[a-c]{3}-[0-9]{2}", pattern)
            assert re.fullmatch("[xy](,[xy])?", items)
            assert not re.fullmatch("[xy](,[xy])?", free)


async def test_it_ends_when_it_is_complete_whatever_was_said_of_the_end_token(
    family: Callable[[str], Family], running: Running
) -> None:
    async with running(family("llama")) as engine:
        answer = await ask(engine, Grammar("choice", '["yes"]'), ignore_eos=True, temperature=0.0)
        assert (answer.text, answer.tokens, answer.end.reason) == ("yes", tuple(b"yes"), "stop")
        # Where more may come, the end token is one of the choices.
        open_end = await ask(engine, Grammar("regex", "a+"), logit_bias={EOS: 100.0})
        assert (open_end.text, open_end.tokens, open_end.end.stop_reason) == ("a", (ord("a"), EOS), None)
        cut = await ask(engine, Grammar("regex", "a{9}"), max_tokens=4)
        assert (cut.text, cut.end.reason) == ("aaaa", "length")


async def test_an_answer_that_gives_way_goes_on_where_it_was(family: Callable[[str], Family], running: Running) -> None:
    pattern = Grammar("regex", "[a-z]{90}")
    async with running(family("llama")) as engine:
        alone = await ask(engine, pattern)
    per_token = 2 * 2 * 16 * 4 * 2  # keys and values, heads, their size, fp32, layers
    async with running(family("llama"), kv_cache_memory=per_token * 160, prefix_cache=False) as small:
        both = await asyncio.gather(ask(small, pattern), ask(small, pattern))
        assert small.stats().preemptions > 0
    assert [each.tokens for each in both] == [alone.tokens] * 2


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        (Grammar.json({"type": "bogus"}), "bogus"),
        (Grammar.json({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (Grammar.json({"$ref": "http://example.com/schema"}), "Default retriever does not fetch"),
        (Grammar("regex", "(a"), "unclosed group"),
        (Grammar("grammar", "start: foo"), "unknown name"),
        (Grammar("grammar", "what is this"), "structured_outputs"),
    ],
)
async def test_a_form_with_a_mistake_is_refused_with_the_reason(
    family: Callable[[str], Family], running: Running, grammar: Grammar, said: str
) -> None:
    async with running(family("llama")) as engine:
        with pytest.raises(InvalidRequest, match=said):
            await engine.compile(grammar)


async def test_a_form_that_becomes_too_much_work_ends_its_own_request_only(
    family: Callable[[str], Family], running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(family("llama")) as engine:
        free = await ask(engine, None)
        taken = 0

        def refuse(self: constraints.Constraint, token: int) -> None:
            nonlocal taken
            taken += 1
            if taken == 3:
                raise EngineFailed("too much work")

        monkeypatch.setattr(constraints.Constraint, "take", refuse)
        broken, beside = await asyncio.gather(
            ask(engine, Grammar("regex", "a+")), ask(engine, None), return_exceptions=True
        )
        assert isinstance(broken, EngineFailed)
        assert isinstance(beside, Whole)
        assert beside.tokens == free.tokens
        assert engine.stats().running == 0


def sentencepiece() -> Tokenizer:
    """A tokenizer like those of Llama 2 and Gemma: spaces are part of tokens, and bytes stand for the rest."""
    pieces = ["</s>", "▁", "▁yes", "yes", "▁no", "no", '"', "{", "}", ":", "a", "1", ",", "▁1"]
    vocab = {piece: i for i, piece in enumerate([*pieces, *(f"<0x{i:02X}>" for i in range(256))])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tokens_with_spaces_and_bytes_are_understood_and_those_beyond_the_tokenizer_forbidden(
    dtype: torch.dtype,
) -> None:
    tokenizer = sentencepiece()
    width = tokenizer.get_vocab_size() + 50
    held = Constraints(tokenizer, width, (0,))
    vocab = tokenizer.get_vocab()

    def allowed(grammar: Grammar, taken: tuple[str, ...] = ()) -> set[str]:
        sequence, drawn = (Sequence(f"{t}", [1], 1, Sampling(temperature=t)) for t in (0.0, 1.0))
        for each in (sequence, drawn):
            each.constraint = held.begin(grammar)
            for piece in taken:
                each.constraint.take(vocab[piece])
        found, by_chance = set(), set()
        for seed in range(width):
            logits = torch.zeros(3, width, dtype=dtype)
            logits[0, [vocab[piece] for piece in found]] = -1.0
            drawn.seed = seed
            rows = [sequence, Sequence("t", [1], 1, Sampling(temperature=0.0)), drawn]
            choice, free, chance = sample(logits, rows, (0,))
            by_chance.add(tokenizer.id_to_token(chance.token))
            assert free.token == 0
            piece = tokenizer.id_to_token(choice.token)
            if piece is None or piece in found:
                assert by_chance <= found
                return found
            found.add(piece)
        return found

    choice = Grammar("choice", '["yes", "no 1", "no:"]')
    assert allowed(choice) == {"yes", "no", "<0x79>", "<0x6E>"}
    assert allowed(choice, ("no",)) == {"▁", "▁1", ":", "<0x20>", "<0x3A>"}


def test_a_grammar_is_compiled_once_and_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Constraints(sentencepiece(), 0, (0,))
    compiled = []
    compile_ = held._compile
    monkeypatch.setattr(held, "_compile", lambda grammar: compiled.append(grammar.text) or compile_(grammar))
    monkeypatch.setattr(constraints, "KEPT", 2)
    for text in ("a", "b", "a", "c", "a", "b"):
        held.begin(Grammar("regex", text))
    assert compiled == ["a", "b", "c", "b"]


def test_objects_are_closed_but_where_the_schema_or_all_of_says_otherwise() -> None:
    held = Constraints(sentencepiece(), 0, (0,))

    def takes(schema: dict[str, object], text: str) -> bool:
        matcher = held._compile(Grammar.json(schema))
        tokens = [held._tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in text.encode()]
        return matcher.validate_tokens(tokens) == len(tokens)

    number = {"type": "integer"}
    point = {"type": "object", "properties": {"x": number}, "required": ["x"]}
    assert takes(point, '{"x":1}')
    assert not takes(point, '{"x":1,"y"')
    assert takes(point | {"additionalProperties": True}, '{"x":1,"y":2}')
    # A property may be called like a word of the schema language.
    odd = {"type": "object", "properties": {"properties": point}, "required": ["properties"]}
    assert takes(odd, '{"properties":{"x":1}}')
    assert not takes(odd, '{"properties":{"x":1,"y"')
    both = {"allOf": [point, {"type": "object", "properties": {"y": number}, "required": ["y"]}]}
    assert takes(both, '{"x":1,"y":2}')
    inside = {"type": "array", "items": {"$ref": "#/$defs/point"}, "$defs": {"point": point}}
    assert not takes(inside, '[{"x":1,"y"')
