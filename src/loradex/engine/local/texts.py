"""Who speaks how: the text of the base, and that of adapters that add tokens to its vocabulary."""

from __future__ import annotations

import threading
from collections import OrderedDict

from loradex.adapters.adapter import Adapter
from loradex.adapters.vocabulary import Vocabulary
from loradex.core.mix import Mix
from loradex.engine.local.text import Text

KEPT = 16
"""Tokenizers that are remembered beside the base's: a large one takes some 100 MB, and a second to make."""


class Texts:
    """The texts of one engine, by digest. Safe from several threads."""

    def __init__(self, base: Text) -> None:
        self.base = base
        self._learnt: dict[str, tuple[Vocabulary | None, int]] = {}
        self._made: OrderedDict[str, Text] = OrderedDict()
        self._lock = threading.Lock()

    def learn(self, adapter: Adapter, vocab_size: int) -> bool:
        """Take note of the tokens that an adapter adds; return whether there are any.

        Raises:
            AdapterInvalid: its tokenizer is not made from that of this base.
        """
        if adapter.digest in self._learnt:
            return True
        own = adapter.vocabulary if adapter.vocabulary and self.base.differs(adapter.vocabulary) else None
        if own is not None or vocab_size != self.base.vocab_size:
            text = self.base.extended(own, vocab_size)
            with self._lock:
                self._learnt[adapter.digest] = own, vocab_size
                self._keep(adapter.digest, text)
        return adapter.digest in self._learnt

    def of(self, mix: Mix[str] | None) -> Text:
        """Return the text of the weights that answer: an adapter's own, or the base's."""
        digest = mix.members[0][0] if mix is not None and len(mix.members) == 1 else ""
        if digest not in self._learnt:
            return self.base
        with self._lock:
            text = self._made.get(digest) or self.base.extended(*self._learnt[digest])
            self._keep(digest, text)
            return text

    def same(self, one: str, other: str) -> bool:
        """Whether two adapters mean the same by the same token ids."""
        return self._learnt.get(one) == self._learnt.get(other)

    def _keep(self, digest: str, text: Text) -> None:
        self._made[digest] = text
        self._made.move_to_end(digest)
        while len(self._made) > KEPT:
            self._made.popitem(last=False)
