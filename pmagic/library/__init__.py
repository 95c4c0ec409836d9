"""The library on disk: `atomic_io` writes files, `bundle` is one persona as files, `store` is the collection.

It never imports torch and knows nothing of engines; it stores and returns `Persona` values.
"""
