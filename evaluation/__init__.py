"""Evaluation: scores of rendered images, label maps and point clouds, and the pictures and videos that show them.

May import: dataio, util, visual.
"""
