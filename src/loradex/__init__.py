"""Loradex: one base model, a whole deck of LoRA adapters, switched at run time."""

__version__ = "0.1.0"
