"""The layers that every ray passes, and the march of the rays through them, once per backend: plain PyTorch, and C for CPUs.

The model calls `backends.layers` and `backends.march`; only `backends` knows which backend computes them. May import: util.
"""
