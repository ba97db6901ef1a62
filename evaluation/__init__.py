"""Scores of rendered images and label maps, point clouds, pictures and films.

May import rendering, datasets and the modules at the root except programs.
"""
