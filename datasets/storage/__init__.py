"""Reading a split fast: the index of its views and cameras, and stores of decoded images.

May import util and data_util.
"""
