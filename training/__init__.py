"""Stages 1 to 3 of training: what each stage trains, the one loop that they share, and several processes.

May import evaluation, rendering, kernels, datasets and the modules at the root except programs.
"""
