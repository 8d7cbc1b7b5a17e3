"""How likely prompts are, told by the real engine as programs that evaluate models read it over HTTP."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer

from .conftest import DEMO

QUESTION = "<|im_start|>user\nWhat is a normal resting heart rate for adults?<|im_end|>\n<|im_start|>assistant\n"
PROMPT = Tokenizer.from_file(str(DEMO / "base" / "tokenizer.json")).encode(QUESTION).ids


def complete(url: str, **body: Any) -> list[dict[str, Any]]:
    reply = httpx.post(f"{url}/v1/completions", json={"temperature": 0, "seed": 1, **body})
    assert reply.status_code == 200, reply.text
    choices: list[dict[str, Any]] = reply.json()["choices"]
    return choices


def likeliest(url: str, model: str, count: int) -> list[int]:
    """Return the tokens of a greedy answer."""
    body = {"model": model, "prompt": PROMPT, "n_predict": count, "temperature": 0, "stream": True}
    lines = httpx.post(f"{url}/completion", json=body).text.splitlines()
    return [token for line in lines if line for token in json.loads(line.removeprefix("data: "))["tokens"]]


def judged(choice: dict[str, Any]) -> tuple[float, bool]:
    """What lm-evaluation-harness reads: how likely what follows the prompt is, and whether it is the likeliest.

    It asks for one token, which it leaves out again.
    """
    told = choice["logprobs"]
    logprobs, tops = (told[name][len(PROMPT) : -1] for name in ("token_logprobs", "top_logprobs"))
    return sum(logprobs), all(value == max(top.values()) for value, top in zip(logprobs, tops, strict=True))


@pytest.mark.parametrize("model", ["base", "medical"])
def test_an_answer_is_as_likely_behind_its_prompt_as_when_it_was_made(demo: str, model: str) -> None:
    [made] = complete(demo, model=model, prompt=PROMPT, max_tokens=8, logprobs=5)
    whole = [*PROMPT, *likeliest(demo, model, 8)]
    for max_tokens in (0, 1):
        [again] = complete(demo, model=model, prompt=[whole], echo=True, logprobs=5, max_tokens=max_tokens)
        told = again["logprobs"]
        assert [len(values) for values in told.values()] == [len(whole) + max_tokens] * 4
        assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
        behind = {name: values[len(PROMPT) : len(whole)] for name, values in told.items()}
        assert behind["tokens"] == made["logprobs"]["tokens"]
        assert behind["token_logprobs"] == pytest.approx(made["logprobs"]["token_logprobs"], abs=0.05)
        assert behind["text_offset"][0] == len(QUESTION)
        if not max_tokens:
            assert again["text"] == QUESTION + made["text"]


def test_the_evaluation_harness_sees_whose_answer_it_is(demo: str) -> None:
    whole = [*PROMPT, *likeliest(demo, "medical", 8)]
    body = {"prompt": [whole, PROMPT + PROMPT], "echo": True, "logprobs": 1, "max_tokens": 1}
    (own, likeliest_of_own), (other, _) = map(judged, complete(demo, model="medical", **body))
    assert likeliest_of_own
    assert own > -1 > other
    (of_base, likeliest_of_base), _ = map(judged, complete(demo, model="base", **body))
    assert of_base < own
    assert not likeliest_of_base


def test_prompt_logprobs_say_which_tokens_stood_there(demo: str) -> None:
    [choice] = complete(demo, model="medical", prompt=PROMPT, prompt_logprobs=2, max_tokens=1)
    first, *others = choice["prompt_logprobs"]
    assert first is None
    assert [next(iter(each)) for each in others] == list(map(str, PROMPT[1:]))
    for each in others:
        own, *tops = each.values()
        assert 2 <= len(each) <= 3
        assert own["rank"] <= 2 or len(each) == 3
        assert all(top["rank"] in (1, 2) for top in tops)
        assert own["logprob"] <= max(top["logprob"] for top in each.values())
