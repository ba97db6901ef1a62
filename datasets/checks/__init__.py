"""Finding the faults of a data set, and drawing its cameras.

May import: data_util, dataio, datasets.storage, geometry, util, visual.
"""
