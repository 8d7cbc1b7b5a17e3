"""SamplingParams: how tokens are chosen, in the words of vLLM and TensorRT-LLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loradex.core.grammar import Grammar, read_grammar
from loradex.core.sampling import Sampling
from loradex.errors import InvalidRequest, Unsupported

_REFUSED = (
    *("use_beam_search", "logits_processors", "logits_processor", "bad_words", "bad"),
    *("allowed_token_ids", "truncate_prompt_tokens", "return_context_logits", "return_generation_logits"),
)


@dataclass(kw_only=True, slots=True)
class StructuredOutputsParams:
    """The form that an answer must have: one of these, in vLLM's words.

    Attributes:
        json: a JSON schema, as a mapping or text, or a pydantic model.
        regex: a pattern that the whole answer matches.
        choice: texts of which the answer is one.
        grammar: a context-free grammar, in Lark's or llama.cpp's (GBNF) notation.
        json_object: any JSON object.
    """

    json: Any = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


GuidedDecodingParams = StructuredOutputsParams
"""Its older name."""


@dataclass(kw_only=True, slots=True)
class SamplingParams:
    """Sampling parameters of one prompt. None is the same as not given, but for `max_tokens`.

    Attributes:
        n: answers to the prompt; with a seed, answer `i` has `seed + i`.
        temperature: 0 means greedy.
        top_p, top_k, min_p: see `loradex.core.sampling.Sampling`, whose ranges all fields here have.
        repetition_penalty, presence_penalty, frequency_penalty: as in vLLM.
        seed: makes the answer reproducible, whatever else is in the batch.
        max_tokens: tokens of the answer; None is what the context leaves.
        min_tokens: end and stop tokens are forbidden before so many.
        stop, stop_token_ids: strings and token ids that end the answer.
        include_stop_str_in_output: leave the stop string in the text.
        ignore_eos: go on after the model's end token.
        logprobs: None for none, else how many alternatives to report beside the chosen token.
        logit_bias: token id to a number that is added to its logit.
        skip_special_tokens: leave special tokens out of the text.
        best_of, detokenize, spaces_between_special_tokens, end_id, pad_id: taken with the values that ask for nothing.
        structured_outputs, guided_decoding: the form that the answer must have: a `StructuredOutputsParams`, or a
            mapping with its fields.
        prompt_logprobs: None for none, else how many alternatives to report beside each token of the prompt.
        use_beam_search and those after it: refused unless empty; they are not offered.
    """

    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = 16
    min_tokens: int | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None
    logit_bias: Mapping[int, float] | None = None
    skip_special_tokens: bool = True
    best_of: int | None = None
    detokenize: bool = True
    spaces_between_special_tokens: bool = True
    end_id: int | None = None
    pad_id: int | None = None
    prompt_logprobs: int | None = None
    use_beam_search: bool = False
    logits_processors: Any = None
    logits_processor: Any = None
    bad_words: Sequence[str] | None = None
    bad: str | Sequence[str] | None = None
    allowed_token_ids: Sequence[int] | None = None
    structured_outputs: StructuredOutputsParams | Mapping[str, Any] | None = None
    guided_decoding: StructuredOutputsParams | Mapping[str, Any] | None = None
    truncate_prompt_tokens: int | None = None
    return_context_logits: bool = False
    return_generation_logits: bool = False

    def __post_init__(self) -> None:
        """Check every field. Raises what `sampling` does."""
        self.sampling()

    @property
    def given(self) -> frozenset[str]:
        """The fields of `Sampling` that were set, over which no default of an adapter wins."""
        optional = (*_SAME[:-2], "seed", "stop")
        return frozenset({"max_tokens", *(name for name in optional if getattr(self, name) is not None)})

    def sampling(self, seed: int | None = None) -> Sampling:
        """Return what the engine is told; `seed` is taken where none is set.

        Raises:
            InvalidRequest: naming the field that is out of range.
            Unsupported: naming the field that is not offered.
        """
        for name in _REFUSED:
            if getattr(self, name):
                raise Unsupported(f"`{name}` is not offered", hint=f"Leave `{name}` out", param=name)
        if self.best_of not in (None, self.n):
            raise Unsupported("`best_of` other than `n` is not offered", hint="Leave `best_of` out", param="best_of")
        return Sampling(
            **{name: value for name in _SAME if (value := getattr(self, name)) is not None},
            max_tokens=self.max_tokens,
            seed=seed if self.seed is None else self.seed,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            stop_token_ids=(*(self.stop_token_ids or ()), *(() if self.end_id is None else (self.end_id,))),
            include_stop=self.include_stop_str_in_output,
            logprobs=self.logprobs,
            prompt_logprobs=self.prompt_logprobs,
            logit_bias=dict(self.logit_bias or {}),
            grammar=self._grammar(),
        )

    def _grammar(self) -> Grammar | None:
        if self.structured_outputs is not None and self.guided_decoding is not None:
            raise InvalidRequest(
                "structured_outputs and guided_decoding exclude one another",
                hint="Give `structured_outputs` alone",
                param="guided_decoding",
            )
        name = "structured_outputs" if self.guided_decoding is None else "guided_decoding"
        given = getattr(self, name)
        if isinstance(given, StructuredOutputsParams):
            given = asdict(given)
        if not isinstance(given, Mapping | None):
            hint = "Give a `StructuredOutputsParams`, or a mapping with its fields"
            raise InvalidRequest(f"{name} is {str(given)[:64]!r}", hint=hint, param=name)
        return read_grammar(given or {}, name)


_SAME = (
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("min_tokens", "ignore_eos", "skip_special_tokens"),
)
"""Fields that bear the same name and meaning in `Sampling`."""
