"""Base models: `card` says what one is and where it lies, `fetching` downloads, `loading` opens it."""
