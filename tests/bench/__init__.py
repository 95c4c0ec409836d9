"""The benchmark: how fast, next to the reference's way and to stock diffusers, and in how much memory.

    python -m tests.bench learn  --shape scaled         one optimiser step of two samples
    python -m tests.bench render --shape scaled         four pictures
    python -m tests.bench memory --shape scaled         peak memory of both, each in a process of its own
    python -m tests.bench whole --shape mini --steps 50 --threads 2    a person's own jobs: 1000 steps, four pictures
    python -m tests.bench whole --shape mini --steps 50 --threads 2 --compiled    the same, once it is compiled
    python -m tests.bench compiled --shape mini         what `learn --compile` brings a step, and its cost
    python -m tests.bench pictures|resolution|steps|people|personas    series: what one more of something costs

Shapes: `mini`, the shipped miniature; `scaled`, a Stable Diffusion of a fifth of the widths and half the side; `sd14`,
its exact shape. The latter two have random weights: the speed is that of real ones. Nothing is timed before the golden
numbers match and the arms have given the same result. The tables go to tests/bench/results as JSON and a plot.
"""
