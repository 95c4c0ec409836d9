"""The base models with a short name, one file each with its `SPEC`."""
