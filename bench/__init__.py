"""Benchmarks. Start them from the project's root, for example `python -m bench.training`.

May import everything except tests.
"""
