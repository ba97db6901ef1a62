"""Runs of train.py, test.py and interpolate.py on the disk: folders, locks, records, checkpoint files; signals that end them.

May import: util.
"""
