"""Frozen vision models, one file each. Each loads an unmodified folder of weights and analyses pictures."""
