"""The command line: one file per command. A command parses its arguments, calls one verb and prints the result.

`app` collects the commands and turns every problem into one message and an exit code. `console` does the printing.
No module here imports torch, transformers, diffusers or numpy before the body of a command needs it.
"""
