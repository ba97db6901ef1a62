"""Making data sets by rendering meshes: procedural objects, modelled furniture, mesh files.

May import: data_util, geometry, options, runs, util, datasets.meshes, datasets.storage.
"""
