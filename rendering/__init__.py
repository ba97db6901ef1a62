"""Rendering rays in blocks that fit a cache or a GPU, and the precision that they are computed in.

May import kernels and the model at the root.
"""
