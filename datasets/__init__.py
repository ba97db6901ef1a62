"""Making, converting, checking and storing data sets of posed images.

May import geometry, util, data_util, options, dataio and visual at the root.
"""
