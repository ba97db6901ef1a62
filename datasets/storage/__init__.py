"""Reading a split fast: the index of its views and cameras, decoded images in memory or in a cache, and batches.

May import: runs, util, data_util.
"""
