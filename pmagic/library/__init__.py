"""What is kept on disk: `durable` writes, `bundle` is one persona as files, `store` is the collection.

The library never imports torch and knows nothing of engines; it keeps and returns `Persona` values.
"""
