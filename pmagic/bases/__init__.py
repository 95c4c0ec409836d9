"""Base models: `model_spec` says what one is and where it lies, `fetching` downloads it, `loading` opens it."""
