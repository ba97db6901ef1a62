"""Making data sets by rendering meshes: procedural objects, real furniture, mesh files.

May import datasets.meshes, datasets.storage and the modules at the root that read data.
"""
