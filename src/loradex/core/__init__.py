"""The nouns that every part speaks in: frozen dataclasses without tensors, clocks or I/O."""
