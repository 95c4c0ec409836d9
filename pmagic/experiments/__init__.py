"""What measures the miniature on drawn people whom no training has seen: one experiment a file, each a command.

`report` compares the ways to learn a person; `compositions`, `stages` and `equilibrium` ask about one part of the
method each; `control`, `layout_control`, `naming`, `probe_gate` and `eyes` ask about the networks. No other room
imports this one.
"""
