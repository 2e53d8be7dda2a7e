"""Benchmarks: one command per figure of performance."""
