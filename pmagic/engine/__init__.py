"""The engine: the paper, one idea per file. It never sees where a persona is stored.

Read in this order: mapper, conditioning, stages, prompts, sentences, recipes, subject, chance, training, checkpoint,
schedulers, rendering.
"""
