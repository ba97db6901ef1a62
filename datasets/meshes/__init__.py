"""Triangle meshes with part labels: reading files, PartNet and ShapeNet folders, colours, ray casting.

May import util, data_util and geometry.
"""
