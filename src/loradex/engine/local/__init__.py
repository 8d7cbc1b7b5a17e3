"""The embedded engine: transformers models with our linears and attention, one batch for every adapter.

`sequence`, `blocks`, `slots`, `plan`, `line`, `scheduler` and `ending` decide, and hold no tensor, clock, lock or log;
the rest acts on what they decided. One thread (`loop`) owns all of it.
"""
