from __future__ import annotations

import math

from loradex.core.event import TokenLogprob
from loradex.server.logprobs import FLOOR, finite, for_chat, for_completion

HI = TokenLogprob(1, "Hi", -0.1, (TokenLogprob(1, "Hi", -0.1), TokenLogprob(2, "Ho", -2.5)))
HALF = TokenLogprob(3, "", -1.0)
UMLAUT = TokenLogprob(4, "ü", -0.5, (TokenLogprob(5, "u", -0.2),))


def test_chat_has_bytes_and_alternatives() -> None:
    first, half, umlaut = for_chat([HI, HALF, UMLAUT]).model_dump()["content"]
    assert first == {
        "token": "Hi",
        "logprob": -0.1,
        "bytes": [72, 105],
        "top_logprobs": [
            {"token": "Hi", "logprob": -0.1, "bytes": [72, 105]},
            {"token": "Ho", "logprob": -2.5, "bytes": [72, 111]},
        ],
    }
    assert half == {"token": "", "logprob": -1.0, "bytes": [], "top_logprobs": []}
    assert umlaut["bytes"] == [0xC3, 0xBC]


def test_completions_have_offsets_in_characters() -> None:
    told = for_completion([HI, HALF, UMLAUT, HI], offset=10).model_dump()
    assert told["text_offset"] == [10, 12, 12, 13]
    assert told["tokens"] == ["Hi", "", "ü", "Hi"]
    assert told["token_logprobs"] == [-0.1, -1.0, -0.5, -0.1]


def test_the_chosen_token_is_always_among_the_alternatives() -> None:
    told = for_completion([HI, UMLAUT, HALF]).top_logprobs
    assert told == [{"Hi": -0.1, "Ho": -2.5}, {"ü": -0.5, "u": -0.2}, {"": -1.0}]


def test_infinities_become_a_number_that_json_has() -> None:
    assert finite(-math.inf) == finite(math.nan) == FLOOR
