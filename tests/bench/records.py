"""Records of each measurement and its machine: JSON and a plot in tests/bench/results, and a table."""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import diffusers
import torch
import transformers
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"


def machine(threads: int) -> dict[str, object]:
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        device = f"{names[0] if names else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "device": device,
        "cores": os.cpu_count(),
        "threads": threads,
        "load": busy,  # the machine's load at the end, this program included
        "python": platform.python_version(),
        **{each.__name__: each.__version__ for each in (torch, diffusers, transformers)},
    }


def write(name: str, found: Mapping[str, Any], threads: int) -> None:
    document = {"table": name, "machine": machine(threads), **found}
    RESULTS.mkdir(exist_ok=True)
    kind = "gpu" if torch.cuda.is_available() else f"cpu{threads}"
    path = RESULTS / f"{name}-{kind}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    rows = table(document)
    print("\n".join(rows))
    plot(document, path.with_suffix(".png"))


def table(found: Mapping[str, Any]) -> list[str]:
    """The record as a Markdown table."""
    if "against" in found:
        rows = ["| ours against | ratio (min to max) | ours | theirs | GFLOP |", "|---|---|---|---|---|"]
        for name, row in found["against"].items():
            ours, theirs = (median(each["busy"] for each in row[side]) for side in ("ours", "theirs"))
            ratio = row["ratio"]
            rows.append(
                f"| {name} | {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}) "
                f"| {ours:.3f} s | {theirs:.3f} s | {row['flops'] / 1e9:.1f} |"
            )
        done, best = found["flops_per_second"] / 1e9, found["peak_flops_per_second"] / 1e9
        return [*rows, "", f"{done:.0f} GFLOP/s of {best:.0f} measured on a large matrix product"]
    if "peaks" in found:
        rows = ["| job | opening the models | the job | seconds |", "|---|---|---|---|"]
        for name, row in found["peaks"].items():
            rows.append(
                f"| {name} | {row['loaded'] / 1e9:.2f} GB | {row['peak'] / 1e9:.2f} GB | {row['seconds']:.1f} |"
            )
        return rows
    if "jobs" in found:
        rows = ["| job | seconds | memory at the peak |", "|---|---|---|"]
        return rows + [
            f"| {name} | {row['seconds']:.3g} | {row['peak'] / 1e9:.2f} GB |" for name, row in found["jobs"].items()
        ]
    names = list(found["series"])
    rows = ["| " + " | ".join([found["over"], *names]) + " |", "|---" * (len(names) + 1) + "|"]
    for value in found["series"][names[0]]:
        times = [f"{min(found['series'][name][value]):.3f}" for name in names]
        rows.append(f"| {' | '.join([str(value), *times])} |")
    return [*rows, "", f"{found['unit']}, the quickest of some runs"]


def plot(found: Mapping[str, Any], path: Path) -> None:
    rows = len(found.get("against", found.get("peaks", found.get("jobs", range(5)))))
    figure = Figure(figsize=(6, 0.5 * rows + 1.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    figure.suptitle(f"{found['table']}: {found['what']}\n{found['machine']['device']}", fontsize=9)
    if "series" in found:
        for name, row in found["series"].items():
            axes.plot([float(value) for value in row], [min(times) for times in row.values()], "o-", label=name)
        axes.set_xscale("log")
        axes.set_xticks([float(value) for value in row], list(row))
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel(found["over"])
        axes.set_ylabel("seconds")
        axes.legend(fontsize=8)
    else:
        _bars(axes, found)
    figure.savefig(path)


def _bars(axes: Any, found: Mapping[str, Any]) -> None:
    (kind,) = {"against", "peaks", "jobs"} & found.keys()
    names, spread, label = list(found[kind]), None, "GB at the peak"
    if kind == "jobs":
        values, label = [each["seconds"] for each in found["jobs"].values()], "seconds"
    elif kind == "against":
        ratios = [found["against"][name]["ratio"] for name in names]
        values, label = [each["median"] for each in ratios], "times as long as ours"
        spread = [[each["median"] - each["low"] for each in ratios], [each["high"] - each["median"] for each in ratios]]
    else:
        values = [each["peak"] / 1e9 for each in found["peaks"].values()]
    bars = axes.barh(names, values, xerr=spread, color="#4878a8", ecolor="#333333", capsize=3)
    axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=4, fontsize=8)  # some are too short to be seen
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_xlabel(label)
