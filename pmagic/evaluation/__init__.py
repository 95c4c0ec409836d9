"""Evaluation: the paper's tables (its Sec. 4) from one command.

An EvalConfig holds the settings of an evaluation as plain values. An EvalContext holds what one process needs to run
it. A SubjectRun evaluates one subject and yields a stream of results. The store keeps the results. The statistics, the
plots and the report summarize them.
"""
