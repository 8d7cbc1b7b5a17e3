"""Text to tokens and back, by the tokenizer of the base model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from tokenizers import AddedToken as Added
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from loradex.adapters.vocabulary import AddedToken, Vocabulary
from loradex.core.prompt import ChatPrompt, Prompt
from loradex.errors import AdapterInvalid, ConfigInvalid, InvalidRequest, Problem, Unsupported

# A template is a program: whatever it does wrong is the fault of the request that brought it, or of its messages.
_TEMPLATE_ERRORS = (
    TemplateError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)


class Text:
    """The tokenizer of a base model, with its chat template; `ends` are tokens that end an answer under an adapter."""

    def __init__(self, path: str, revision: str | None, vocab_size: int) -> None:
        """Read the tokenizer in the model's folder.

        Raises:
            ConfigInvalid: there is none, or it is not one of the fast kind.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigInvalid(
                f"No tokenizer could be read from {path}: {error}",
                hint="Put tokenizer.json and tokenizer_config.json beside the model's weights",
            ) from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ConfigInvalid(
                f"The tokenizer of {path} has no tokenizer.json",
                hint="Convert it: `AutoTokenizer.from_pretrained(PATH, use_fast=True).save_pretrained(PATH)`",
            )
        tokenizer.model_max_length = 1 << 60  # we refuse what does not fit; transformers would warn of it as well
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.ends: tuple[int, ...] = ()
        self.fast: Tokenizer = tokenizer.backend_tokenizer

    def differs(self, vocabulary: Vocabulary) -> bool:
        """Whether an adapter's tokenizer has other tokens, another end or another chat template."""
        return bool(
            [token for token in vocabulary.tokens if self._id(token) != token.id]
            or vocabulary.eos not in ("", self.tokenizer.eos_token)
            or vocabulary.chat_template not in ("", self.tokenizer.chat_template)
        )

    def extended(self, vocabulary: Vocabulary | None, vocab_size: int) -> Text:
        """Return this text with the tokens that an adapter adds, and as many token ids as it has.

        Raises:
            AdapterInvalid: they cannot have the ids that they have in the adapter's tokenizer: that is another base's.
        """
        text = copy.copy(self)
        text.vocab_size = vocab_size
        if vocabulary is None:
            return text
        text.tokenizer = copy.deepcopy(self.tokenizer)
        for token in vocabulary.tokens:
            text._add(token)
        end = text.tokenizer.backend_tokenizer.token_to_id(vocabulary.eos) if vocabulary.eos else None
        if end is not None:
            text.tokenizer.eos_token = vocabulary.eos
            text.ends = (end,)
        text.tokenizer.chat_template = vocabulary.chat_template or self.tokenizer.chat_template
        text.fast = text.tokenizer.backend_tokenizer
        return text

    def _add(self, token: AddedToken) -> None:
        if self._id(token) != token.id:
            flags = {"normalized": token.normalized, "lstrip": token.lstrip, "rstrip": token.rstrip}
            added = Added(token.content, single_word=token.single_word, special=token.special, **flags)
            self.tokenizer.add_tokens([added], special_tokens=token.special)
        if self._id(token) != token.id:
            what = (
                f"its tokenizer has {token.content!r} as token {token.id}, on the base's it would be {self._id(token)}"
            )
            problem = Problem("vocabulary", what, "Serve the base on which it was trained, with its tokenizer")
            raise AdapterInvalid("The adapter's tokens do not fit the base's tokenizer", [problem])

    def _id(self, token: AddedToken) -> int | None:
        found: int | None = self.tokenizer.backend_tokenizer.token_to_id(token.content)
        return found

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be rendered without a template from the request."""
        return self.tokenizer.chat_template is not None

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the token ids of a prompt.

        Raises:
            InvalidRequest: a token id outside the vocabulary, or a conversation that the template refuses.
            Unsupported: a conversation, while there is no template.
        """
        if isinstance(prompt, ChatPrompt):
            return self._render(prompt)
        if isinstance(prompt, str):
            return tuple(self.tokenizer.encode(_clean(prompt)))
        for token in prompt:
            if not 0 <= token < self.vocab_size:
                raise InvalidRequest(
                    f"The prompt holds token id {token}; the vocabulary ends at {self.vocab_size - 1}", param="prompt"
                )
        return prompt

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included."""
        return str(self.tokenizer.decode(list(tokens)))

    def piece(self, token: int) -> str:
        """Return what one token says alone; empty where it is only part of a character."""
        text = self.decode([token])
        return "" if "\ufffd" in text else text

    def _render(self, prompt: ChatPrompt) -> tuple[int, ...]:
        if prompt.template is None and not self.has_chat_template:
            raise Unsupported(
                "The base model has no chat template", hint="Use /v1/completions, or send `chat_template`"
            )
        messages = [_turn(message.role, message.content, message.name) for message in prompt.messages]
        extra: dict[str, Any] = dict(prompt.template_kwargs)
        try:
            tokens = self.tokenizer.apply_chat_template(
                messages,
                chat_template=prompt.template,
                add_generation_prompt=prompt.add_generation_prompt,
                continue_final_message=prompt.continue_final_message,
                tokenize=True,
                return_dict=False,
                **extra,
            )
        except _TEMPLATE_ERRORS as error:
            raise InvalidRequest(
                f"The chat template refuses these messages: {error}",
                hint="Check the order of roles that the model's template expects",
                param="messages",
            ) from error
        return tuple(tokens)


class Detokenizer:
    """Turns the tokens of one answer into text, a token at a time."""

    def __init__(self, text: Text, prompt: Sequence[int], *, skip_special_tokens: bool) -> None:
        self._text = text
        self._skip = skip_special_tokens
        # The end of the prompt tells the decoder whether the answer begins inside a word. An end that is no whole text
        # would come out again with the first piece.
        tail = list(prompt[-8:])
        tail = [] if "\ufffd" in text.decode(tail) else tail
        self._stream = DecodeStream(ids=tail, skip_special_tokens=skip_special_tokens)

    def push(self, token: int) -> str:
        """Return the text that `token` completes; empty while a character is incomplete."""
        try:
            return self._stream.step(self._text.fast, token) or ""
        except Exception as error:  # the library has no class of its own
            if "Invalid prefix" not in str(error):
                raise
            # Tokens that are no valid text make the decoder lose its place; it goes on from here.
            self._stream = DecodeStream(skip_special_tokens=self._skip)
            return self._stream.step(self._text.fast, token) or ""


def _turn(role: str, content: str, name: str | None) -> dict[str, str]:
    turn = {"role": role, "content": _clean(content)}
    return turn if name is None else {**turn, "name": name}


def _clean(text: str) -> str:
    """Replace lone surrogates, which JSON can carry and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")
