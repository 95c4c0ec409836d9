"""What is said on the terminal: one file per command, each of which parses, calls one verb and prints.

`app` gathers the commands and turns every problem into one message and an exit code; `console` is the only one that
prints. Nothing here imports torch, transformers, diffusers or numpy before a command's own body needs them.
"""
