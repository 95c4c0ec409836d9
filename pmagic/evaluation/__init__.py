"""Evaluation: the paper's tables (its Sec. 4) from one command.

An order says what is asked for, in plain values. A bench is what one process needs to carry it out. A sitting is one
person's part, a stream of results. The store keeps them; statistics, plots and the report tell what they mean.
"""
