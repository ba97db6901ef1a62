"""Benchmarks: `python -m bench.training` and so on, from the project's root.

May import everything but tests.
"""
