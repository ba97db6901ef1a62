"""Rays in blocks that fit a cache or a GPU, rendering without gradients, and the precision of matrix products.

May import: hyperlayers, kernels, util.
"""
