"""Shelf of the base models with a short name: one file each, holding its `SPEC`."""
