"""Conversion between posed images of other programs (transforms.json, COLMAP) and class folders.

May import: data_util, dataio, geometry, options, util, datasets.making.
"""
