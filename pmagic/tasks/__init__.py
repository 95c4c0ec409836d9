"""What each verb does, with plain values. The commands, the Python API and the evaluation call it.

Begin with `learning` and `drawing`. Nothing here prints, parses a command line or knows where the library is.
"""
