"""Adapter files: read, checked and identified without a tensor library."""
