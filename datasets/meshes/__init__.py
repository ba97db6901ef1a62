"""Triangle meshes with part labels: reading OBJ, glTF, PLY, PartNet and ShapeNet, transferring colours, ray casting.

May import: data_util, geometry, util.
"""
