"""The engine: the paper, one idea per file. It never sees where a persona is stored.

Read in this order: mapper, conditioning, attention, stages, prompts, sentences, recipes, portraits, subject, likeness,
chance, training, probe, plots, checkpoint, schedulers, composing, regions, localising, placing, rendering.
"""
