"""The benchmark: speed and memory use, compared with the reference implementation's way and with stock diffusers.

    python -m tests.bench learn  --shape scaled         one optimizer step of two samples
    python -m tests.bench render --shape scaled         four pictures
    python -m tests.bench memory --shape scaled         peak memory of both, each in a process of its own
    python -m tests.bench whole --shape mini --steps 50 --threads 2    a user's whole jobs: 1000 steps, four pictures
    python -m tests.bench whole --shape mini --steps 50 --threads 2 --compiled    the same, after compilation
    python -m tests.bench compiled --shape mini         what `learn --compile` saves per step, and its cost
    python -m tests.bench cold --shape mini --steps 50   whole commands that draw, from start to end
    python -m tests.bench pictures|resolution|steps|people|personas    series: the cost of one more of something

Shapes: `mini` is the shipped miniature; `scaled` is a Stable Diffusion with a fifth of the widths and half the side;
`sd14` has Stable Diffusion's exact shape. The latter two have random weights, which are as fast as real ones. Timing
starts only after the golden numbers match and the arms have given the same result. The tables go to
tests/bench/results as JSON and a plot.
"""
