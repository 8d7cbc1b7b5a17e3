"""The shipped tokenizer: a ChatML template and every character of every language."""

from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")

SHIPPED = Path(__file__).parents[2] / "src" / "loradex" / "assets" / "demo"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(SHIPPED / "base")


def test_roles_render_as_chatml(tokenizer: Any) -> None:
    chat = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "tool", "content": "42"},
    ]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>tool\n42<|im_end|>\n<|im_start|>assistant\n"
    )


def test_content_may_come_in_parts(tokenizer: Any) -> None:
    chat = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == "<|im_start|>user\nab<|im_end|>\n"


def test_special_tokens(tokenizer: Any) -> None:
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"


@pytest.mark.parametrize("text", ["plain words, 123", "naïve café", "日本語", "🙂\n\n  x\t"])
def test_any_text_survives(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_both_ways_of_loading_agree(tokenizer: Any) -> None:
    other = transformers.PreTrainedTokenizerFast.from_pretrained(SHIPPED / "base")
    text = "What's a contract?\n\n 12 x"
    assert tokenizer.encode(text) == other.encode(text)
