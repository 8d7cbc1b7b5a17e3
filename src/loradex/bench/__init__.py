"""Benchmarks: seeded workloads, two sides measured in turn, the physical floor beside every number."""
