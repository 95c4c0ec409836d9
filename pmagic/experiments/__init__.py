"""Experiments that measure the miniature on drawn people outside the training set: one command per file.

`report` compares the ways to learn a person. `compositions`, `stages` and `equilibrium` each measure one part of the
method. `control`, `layout_control`, `naming`, `probe_gate` and `eyes` measure the networks. No other package imports
this one.
"""
