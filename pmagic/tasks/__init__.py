"""What each verb does, from plain values, whoever calls it: the commands, the Python door, the evaluation.

Read `learning` and `drawing`. Nothing here prints, parses a command line or knows where the library is.
"""
