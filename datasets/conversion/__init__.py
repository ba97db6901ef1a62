"""Posed images of other programs (transforms.json, COLMAP) to our layout and back.

May import datasets.making and the modules at the root that read data.
"""
