"""Adapter formats besides PEFT, read to low-rank pairs and written from them."""
