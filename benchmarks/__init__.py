"""Benchmarks: ours against a named baseline, in turns in one run."""
