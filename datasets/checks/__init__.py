"""Finding and drawing what is wrong with a data set.

May import datasets.storage and the modules at the root that read data and draw.
"""
