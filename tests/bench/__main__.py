"""The benchmark's command line; see the package's docstring."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))  # the folder of `tiny` and `bench`
os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as in the program itself; read when torch is imported

import torch  # noqa: E402

from bench import arms, records, series, shapes, timing  # noqa: E402
from pmagic.engine import compiling, memory, probe, training  # noqa: E402
from pmagic.errors import UsageError  # noqa: E402

TOLERANCE = 1e-3  # relative distance of two arms' gradients in float32
SMALLER = 0.6  # share of the picture's side for a portrait whose face is decoded from a quarter of its area
JOBS = ("learn reference", "learn paper", "render")
GREYS = 8  # of 255, the largest mean difference of two arms' pictures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=arms.__doc__)
    tables = {
        "learn": speed,
        "render": speed,
        "memory": peaks,
        "whole": whole,
        "compiled": compiled,
        **dict.fromkeys(series.OF_BASE, along),
    }
    tables["personas"] = lambda asked: series.personas()
    parser.add_argument("table", choices=(*tables, "peak"))
    parser.add_argument("--shape", choices=shapes.SHAPES, default="scaled")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10, help="of the sampler")
    parser.add_argument("--iterations", type=int, default=1000, help="of `whole`'s learning")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "pmagic-bench")
    parser.add_argument("--compiled", action="store_true", help="`whole` as `learn --compile`, once it is compiled")
    parser.add_argument("--low", action="store_true", help="of `peak`, as --memory low")
    parser.add_argument("--job", choices=JOBS, help="of `peak`")
    parser.add_argument("--dtype", default="auto", help="of `peak`")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.table == "peak":
        return print(json.dumps(peak(asked)))
    require_golden()
    name = asked.table if asked.table == "personas" else f"{asked.table}-{asked.shape}"  # personas opens no base
    name += "-compiled" * asked.compiled
    records.write(name, tables[asked.table](asked), asked.threads)
    return None


def require_golden() -> None:
    """Run the golden tests, so that a fast wrong answer is not timed."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "ignore", "-q", "-rs", str(TESTS / "test_golden.py")],
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or "skipped" in lines[-1]:
        sys.exit(f"the golden numbers do not match, so nothing is timed: {lines[-1]}")
    print(f"golden numbers: {lines[-1]}", file=sys.stderr)


def prepared(asked: argparse.Namespace, dtype: str = "auto", *, face: bool = False, **recipe: str) -> arms.Bench:
    base, seen, photo = shapes.opened(asked.shape, asked.folder, asked.device, dtype, face=face)
    return arms.bench(base, seen, photo, asked.steps, **recipe)


def speed(asked: argparse.Namespace) -> dict[str, object]:
    """Compare our arm with the others and its own variants. Agreement is checked in float32, the others' own type."""
    bench, plain = prepared(asked), prepared(asked, "float32")
    device = bench.base.device
    learns = asked.table == "learn"
    made = arms.learning if learns else arms.drawing
    exact = made(plain)
    with exact["reference"].within():
        expected = exact["reference"].run()
    distance = differ(exact["ours"].run(), expected)
    if distance > (TOLERANCE if learns else GREYS):
        sys.exit(f"ours and the reference's way differ by {distance:g}, so nothing is timed")
    found = {name: arm for name, arm in made(bench).items() if name.startswith("ours")}
    found |= {name: exact[name] for name in ("reference", "stock")}
    if bench.base.compute_dtype is not None:
        found["ours in float32"] = exact["ours"]
    if bench.base.compute_dtype is not None and not learns:
        found[f"stock in {bench.base.computes_in}"] = made(prepared(asked, bench.base.computes_in))["stock"]
    rows = {}
    for name in found:
        a, b = timing.compared(found["ours"], found[name], asked.pairs, device)
        rows[name] = {
            "ratio": vars(timing.ratio(a, b)),
            "ours": [vars(each) for each in a],
            "theirs": [vars(each) for each in b],
            "flops": timing.flops(found[name]),
        }
    mean = sum(each["busy"] for each in rows["ours"]["ours"]) / asked.pairs
    return {
        "what": "one optimiser step of two samples" if learns else f"four pictures, {asked.steps} steps",
        "distance": distance,
        "computes_in": bench.base.computes_in,
        "flops_per_second": rows["ours"]["flops"] / mean,
        "peak_flops_per_second": timing.peak(device, bench.base.compute_dtype or bench.base.weights_dtype),
        "against": rows,
    }


def differ(ours: list, theirs: list) -> float:
    if isinstance(ours[0], torch.Tensor):
        ours, theirs = (torch.cat([each.flatten() for each in both]) for both in (ours, theirs))
        return float((ours - theirs).norm() / theirs.norm())
    pairs = zip(ours, theirs, strict=True)
    pixels = [
        [torch.frombuffer(bytearray(each.tobytes()), dtype=torch.uint8).float() for each in pair] for pair in pairs
    ]
    return float(torch.stack([(left - right).abs().mean() for left, right in pixels]).max())


def along(asked: argparse.Namespace) -> dict[str, object]:
    """Run a series: the cost of one more of something."""
    return series.OF_BASE[asked.table](prepared(asked))


def whole(asked: argparse.Namespace) -> dict[str, object]:
    """A user's whole jobs: learning by either recipe in the fixed stages, and four pictures."""
    bench = prepared(asked, face=True)
    if asked.compiled:
        bench = _compiled(bench)
    device, rows = bench.base.device, {}
    faces = [bench.subject, shapes.portrayed(bench.base, SMALLER)[0]]
    first = arms.jobs(bench, 2, faces)
    for name, job in arms.jobs(bench, asked.iterations, faces).items():
        timing.run(first[name], device)
        timing.highest(device)
        cost = timing.run(job, device)
        rows[name] = {"peak": timing.highest(device), "seconds": cost.wall}
    return {"what": f"{asked.iterations} steps of learning, {arms.PICTURES} pictures of {asked.steps}", "jobs": rows}


def compiled(asked: argparse.Namespace) -> dict[str, object]:
    """What `learn --compile` saves per step, and its cost before the first one."""
    bench = prepared(asked)
    device, rows = bench.base.device, {}

    def step(arm: arms.Arm) -> dict[str, float]:
        timing.run(arm, device)
        timing.highest(device)
        seconds = statistics.median(timing.run(arm, device).wall for _ in range(asked.pairs))
        return {"seconds": seconds, "peak": timing.highest(device)}

    rows["a step"] = step(arms.learning(bench)["ours"])
    start = time.perf_counter()
    arm = arms.learning(_compiled(bench))["ours"]
    seconds = time.perf_counter() - start
    rows["compiling the UNet"] = {"seconds": seconds, "peak": timing.highest(device)}
    rows["a compiled step"] = step(arm)
    return {"what": "a learning step of two samples, compiled", "jobs": rows}


def _compiled(bench: arms.Bench) -> arms.Bench:
    """The bench with a compiled UNet. Exits if its gradient is wrong, so that a fast wrong answer is not timed."""
    made = replace(bench, base=replace(bench.base, compiled=True))
    slopes = [
        training.first_step_gradient(each.base, each.subject, each.settings, probe.make_mapper)
        for each in (bench, made)
    ]
    try:
        compiling.check_gradient(*slopes)
    except UsageError as problem:
        sys.exit(f"{problem.what}, so nothing is timed")
    return made


def peaks(asked: argparse.Namespace) -> dict[str, object]:
    """Run each job in a process of its own, which reports its peak memory at its end."""
    if asked.shape != "mini":
        shapes.built(asked.shape, asked.folder / asked.shape)  # here: building needs more memory than opening
    rows = {}
    for job in JOBS:
        for mode in ("normal", "low"):
            words = ["peak", "--shape", asked.shape, "--job", job, "--device", asked.device, "--steps", "1"]
            words += ["--folder", str(asked.folder), "--threads", str(asked.threads), *(["--low"] * (mode == "low"))]
            done = subprocess.run([sys.executable, "-m", "tests.bench", *words], stdout=subprocess.PIPE, check=True)
            rows[f"{job}, {mode}"] = json.loads(done.stdout)
    return {"what": "peak memory of a job, its models being open", "peaks": rows}


def peak(asked: argparse.Namespace) -> dict[str, float]:
    """loaded: peak memory while the models are opened; peak: in the job after it. Measured by timing.highest."""
    learn, _, recipe = asked.job.partition(" ")
    bench = prepared(asked, asked.dtype, face=True, recipe=recipe or "reference")
    device = bench.base.device
    loaded = timing.highest(device)
    if learn == "learn":
        with memory.gradient_checkpointing(bench.base.pipeline) if asked.low else nullcontext():
            cost = timing.run(arms.learning(bench)["ours"], device)
    else:
        cost = timing.run(arms.drawing(bench)["ours, one by one" if asked.low else "ours"], device)
    return {"loaded": loaded, "peak": timing.highest(device), "seconds": cost.busy}


if __name__ == "__main__":
    main()
