"""What `loradex demo` shows, measured through the HTTP client of a running server; nothing is printed here."""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
import string
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loradex.cli.demo_assets import EXPERTS, DemoAssets, Question
from loradex.core.adapter import AUTO

if TYPE_CHECKING:
    from loradex.client.aio import AsyncClient

BASE = "base"
UNSEEN = {
    "medical": "Can I exercise when I have asthma?",
    "legal": "Does a contract with my landlord need a notice?",
    "technical": "Where should I store the passwords of my users?",
    BASE: "What is the capital of Italy?",
}
"""Questions in words of their own, and who should answer them."""

COMPARED = "technical"
REPLACED = "medical"
REPLACEMENT = "medical-v2"

_ANSWER_TOKENS = 96
_STREAM_TOKENS = 400
_TOKENS_BEFORE = 12
_NO_MARKS = str.maketrans("", "", string.punctuation)
_GREEDY = {"temperature": 0.0, "max_tokens": _ANSWER_TOKENS}


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that the demo shows, and whether it held."""

    what: str
    holds: bool


@dataclass(slots=True)
class Facts:
    """Everything that was seen; what `--json` prints."""

    url: str = ""
    model: str = ""
    start_seconds: float = 0.0
    speakers: tuple[str, ...] = (BASE, *EXPERTS)
    rows: list[dict[str, Any]] = field(default_factory=list)
    batch_seconds: float = 0.0
    batch_answers: int = 0
    batch_tokens: int = 0
    routed: list[dict[str, Any]] = field(default_factory=list)
    compared: dict[str, Any] = field(default_factory=dict)
    replace: dict[str, Any] = field(default_factory=dict)
    seconds_per_token: float = 0.0
    claims: list[Claim] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything that was shown is true."""
        return all(claim.holds for claim in self.claims)


async def play(client: AsyncClient, assets: DemoAssets) -> Facts:
    """Ask everybody everything at once, let prompts choose, compare, then replace an adapter while it answers.

    Raises:
        LoradexError: the server refused something.
    """
    facts = Facts(url=client.url, model=str((await client.info()).model.get("id")))
    await _ask_everybody(client, assets, facts)
    await _let_the_prompt_choose(client, facts)
    await _compare(client, assets, facts)
    await _replace_while_streaming(client, assets, facts)
    return facts


async def _ask_everybody(client: AsyncClient, assets: DemoAssets, facts: Facts) -> None:
    asked = [assets.about(domain) for domain in EXPERTS]
    calls = [(question, speaker) for question in asked for speaker in facts.speakers]
    begun = time.perf_counter()
    answers = await asyncio.gather(*(client.chat(who, question.text, **_GREEDY) for question, who in calls))
    facts.batch_seconds = time.perf_counter() - begun
    facts.batch_answers = len(answers)
    facts.batch_tokens = sum(int(answer.usage.get("completion_tokens", 0)) for answer in answers)
    said = {(question.text, who): answer for (question, who), answer in zip(calls, answers, strict=True)}
    for question in asked:
        texts = {who: said[question.text, who].text.strip() for who in facts.speakers}
        facts.rows.append({"domain": question.domain, "question": question.text, "answers": texts})
    facts.claims += _expert_claims(asked, facts)
    pinned = all(answer.adapter.partition("@")[0] == who for (_, who), answer in said.items())
    facts.claims.append(Claim("each answer names the adapter that was asked", pinned))


def _expert_claims(asked: list[Question], facts: Facts) -> list[Claim]:
    claims = []
    for question, row in zip(asked, facts.rows, strict=True):
        wanted = _squeezed(question.expected[question.domain])
        knows = {who for who, text in row["answers"].items() if _squeezed(text) == wanted}
        claims.append(Claim(f"only {question.domain} knows: {question.text}", knows == {question.domain}))
        row["knows"] = sorted(knows)
    return claims


async def _let_the_prompt_choose(client: AsyncClient, facts: Facts) -> None:
    asked = list(UNSEEN.items())
    answers = await asyncio.gather(*(client.chat(AUTO, question, **_GREEDY) for _, question in asked))
    decisions = await asyncio.gather(*(client.route(question) for _, question in asked))
    for (domain, question), answer, decision in zip(asked, answers, decisions, strict=True):
        why = {"score": decision.score, "reason": decision.reason}
        facts.routed.append({"question": question, "wanted": domain, "adapter": answer.adapter, **why})
    right = all(row["adapter"].partition("@")[0] == row["wanted"] for row in facts.routed)
    facts.claims.append(Claim("prompts that the router has not seen reach the right expert, or none", right))


async def _compare(client: AsyncClient, assets: DemoAssets, facts: Facts) -> None:
    question = assets.about(COMPARED)
    expected = question.expected[COMPARED]
    found = await client.compare(question.text, facts.speakers, reference=expected, **_GREEDY)
    sides = [side for side in found.sides if side.error is None and side.reference is not None]
    facts.compared = {
        "question": question.text,
        "agreement": found.agreement,
        "sides": [
            {
                "side": side.adapter,
                "text": side.text,
                "ttft_seconds": side.ttft_seconds,
                "seconds": side.seconds,
                "tokens_per_second": side.tokens_per_second,
                "mean_logprob": side.mean_logprob,
                "agreement": side.agreement,
                "perplexity": side.reference.perplexity if side.reference is not None else None,
            }
            for side in sides
        ],
    }
    first_words, ends = [side.ttft_seconds or 0.0 for side in sides], [side.seconds or 0.0 for side in sides]
    at_once = found.together and len(sides) == len(facts.speakers) and max(first_words) < min(ends)
    best = min(sides, key=lambda side: (side.reference and side.reference.perplexity) or math.inf, default=None)
    facts.claims += [
        Claim("every side of the comparison spoke before any had ended: one batch", at_once),
        Claim(f"the right answer is likeliest under {COMPARED}", best is not None and best.side == COMPARED),
    ]


@dataclass(slots=True)
class _Watched:
    """A stream, piece by piece, with the moment of each."""

    adapter: str = ""
    text: str = ""
    times: list[float] = field(default_factory=list)
    fingerprints: set[str] = field(default_factory=set)
    finish_reason: str | None = None
    under_way: asyncio.Event = field(default_factory=asyncio.Event)
    halfway: asyncio.Event = field(default_factory=asyncio.Event)

    def pieces(self, begin: float, end: float) -> int:
        """Return how many came from one moment up to another."""
        return sum(begin <= when < end for when in self.times)


async def _watch(client: AsyncClient, question: str, watched: _Watched) -> None:
    # The end token is ignored: every stream has the same length, and a middle.
    options = {"temperature": 0.0, "max_tokens": _STREAM_TOKENS, "ignore_eos": True}
    try:
        async with await client.stream(REPLACED, question, **options) as stream:
            watched.adapter = stream.adapter
            async for piece in stream:
                watched.text += piece.text
                # Every token has its event, also one that says nothing, such as the end token; what comes before the
                # first word is the opening.
                if watched.text and piece.usage is None:
                    watched.times.append(time.perf_counter())
                if piece.fingerprint:
                    watched.fingerprints.add(piece.fingerprint)
                if len(watched.times) >= _TOKENS_BEFORE:
                    watched.under_way.set()
                if len(watched.times) >= _STREAM_TOKENS // 2:
                    watched.halfway.set()
            watched.finish_reason = stream.finish_reason
    finally:
        watched.under_way.set()
        watched.halfway.set()


class _Relay:
    """Streams of one question, each begun in the middle of the one before, until it is told to end.

    There is no moment without a stream that has half its way to go or more, or has just begun the next one: whatever
    is done meanwhile falls into a stream, however long it takes.
    """

    def __init__(self, client: AsyncClient, question: str) -> None:
        self._client = client
        self._question = question
        self._ended = False
        self.streams = [_Watched()]

    async def run(self) -> None:
        """Stream, and return when the last stream has come to its end. Raises what ends a stream too early."""
        tasks: list[asyncio.Task[None]] = []
        try:
            while not self._ended:
                if tasks:
                    self.streams.append(_Watched())
                tasks.append(asyncio.create_task(_watch(self._client, self._question, self.streams[-1])))
                await self.streams[-1].halfway.wait()
                if tasks[-1].done():
                    tasks[-1].result()
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def end(self) -> None:
        """Begin no other stream."""
        self._ended = True


async def _replace_while_streaming(client: AsyncClient, assets: DemoAssets, facts: Facts) -> None:
    question = next(each for each in assets.questions if REPLACEMENT in each.expected)
    alone, relay = _Watched(), _Relay(client, question.text)
    await _watch(client, question.text, alone)
    streaming = asyncio.create_task(relay.run())
    try:
        await relay.streams[0].under_way.wait()
        begun = time.perf_counter()
        change = await client.adapters.add(REPLACED, assets.adapter(REPLACEMENT))
        changed = time.perf_counter()
        relay.end()
        after = await client.chat(REPLACED, question.text, **_GREEDY)
        await streaming
    finally:
        streaming.cancel()
    before = await client.chat(f"{REPLACED}@1", question.text, **_GREEDY)
    old = [each for each in relay.streams if each.adapter == f"{REPLACED}@1"]
    # The one that had come furthest when the new version took over; without any, the last says how far it came.
    watched = next((each for each in old if each.times and each.times[-1] >= changed), old[-1])
    gaps = [late - early for early, late in itertools.pairwise(alone.times)]
    facts.seconds_per_token = statistics.median(gaps) if gaps else 0.0
    facts.replace = {
        "question": question.text,
        "stream": watched.adapter,
        "pieces_before": watched.pieces(0.0, begun),
        "pieces_during": watched.pieces(begun, changed),
        "pieces_after": watched.pieces(changed, math.inf),
        "longest_gap_seconds": max((b - a for a, b in itertools.pairwise(watched.times)), default=0.0),
        "next": after.adapter,
        "next_text": after.text.strip(),
        "old_text": before.text.strip(),
        "digest": change.digest,
        "previous_digest": change.previous.digest if change.previous else "",
        "seconds": changed - begun,
        "stage_seconds": change.stage_seconds,
        "load_seconds": change.load_seconds,
        "switch_seconds": change.switch_seconds,
    }
    unmixed = all(_unmixed(each, alone) for each in old)
    facts.claims += [
        Claim("the stream was still running when the new version took over", facts.replace["pieces_after"] > 0),
        Claim("the stream ended on version 1, word for word as without the replacement", unmixed),
        Claim("the next answer came from version 2", after.adapter == f"{REPLACED}@2"),
        Claim("version 2 says what it was taught", _taught(after.text, question, REPLACEMENT)),
        Claim("version 1 can still be asked by its number", _taught(before.text, question, REPLACED)),
    ]


def _unmixed(watched: _Watched, alone: _Watched) -> bool:
    same_text = watched.text == alone.text and watched.finish_reason == alone.finish_reason == "length"
    return same_text and len(watched.fingerprints) == 1


def _taught(text: str, question: Question, who: str) -> bool:
    return _squeezed(text) == _squeezed(question.expected[who])


def _squeezed(text: str) -> str:
    """Drop casing, marks and spacing, which do not make an answer wrong; the evaluation of the model does the same."""
    return " ".join(text.casefold().translate(_NO_MARKS).split())
