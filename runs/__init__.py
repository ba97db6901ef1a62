"""Runs of train.py, test.py and interpolate.py as folders on the disk.

May import: util.
"""
