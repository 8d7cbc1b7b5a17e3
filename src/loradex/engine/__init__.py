"""Engines turn tokens into tokens. They share the protocol in `base` and know nothing of one another."""
