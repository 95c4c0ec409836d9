"""Frozen observers, one file each. Each opens an unmodified folder of weights and answers about pictures."""
