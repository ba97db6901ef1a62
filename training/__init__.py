"""Stages 1 to 3 of training: the plan of a run, what each stage trains, the loop that they share, several processes.

May import: checkpoints, data_util, dataio, datasets.checks, evaluation, geometry, hyperlayers, options, rendering, runs,
srns, util, visual.
"""
