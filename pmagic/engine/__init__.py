"""The engine: the paper, one idea per file. It never sees where a persona is stored.

Read in this order: mapper, conditioning, attention, stages, prompts, token_batch, recipes, face_selection, subject,
face_embedding, randomness, training, probe, plots, checkpoint, schedulers, composing, regions, inpainting,
layout_check, rendering.
"""
