"""The layers of phi and the march of the rays, once per backend: plain PyTorch and C.

May import geometry and util.
"""
