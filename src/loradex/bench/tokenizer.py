"""A byte-level BPE tokenizer without merges: every id of the vocabulary has a text, every text can be encoded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_alphabet() -> list[str]:
    """Return the printable character that byte-level tokenizers write for each byte, by byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    odd = iter(range(0x100, 0x200))
    return [chr(byte) if byte in plain else chr(next(odd)) for byte in range(256)]


def save_tokenizer(folder: Path, vocabulary: int, positions: int) -> None:
    """Write the tokenizer's files.

    Ids 0 to 2 are special, then come the bytes, then made-up words that no text is ever split into, so that whatever
    a random model says can be shown.
    """
    words = [*SPECIAL, *byte_alphabet()]
    words += [f"Ġw{index}" for index in range(len(words), vocabulary)]
    special = [
        {"id": i, "content": word, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for i, word in enumerate(SPECIAL)
    ]
    level: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    model = {"type": "BPE", "vocab": {word: i for i, word in enumerate(words)}, "merges": []}
    rest = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor"))
    pages = {
        "tokenizer.json": {"version": "1.0", "added_tokens": special, "pre_tokenizer": level, "decoder": level}
        | rest
        | {"model": model | dict.fromkeys(("dropout", "unk_token"))},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": SPECIAL[2],
            "pad_token": SPECIAL[0],
            "model_max_length": positions,
            "clean_up_tokenization_spaces": False,
            "chat_template": TEMPLATE,
        },
    }
    for name, page in pages.items():
        (folder / name).write_text(json.dumps(page, ensure_ascii=False), encoding="utf-8")
