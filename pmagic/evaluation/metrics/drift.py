"""Drift: what became of the plain class word. A method that changes weights may turn everybody into the person.

Each prompt is drawn once more, with the class word in the place of the name and with the persona applied. A method that
changes nothing which a plain prompt reads draws what the base draws.
"""

from dataclasses import replace

from pmagic.evaluation.metrics import Sample, i_pre, r_precision
from pmagic.evaluation.observers import Observers

ORDER = 80  # last: these are other pictures than those of the other metrics, which share what is seen in them
COLUMNS = {
    "drift": "cosine of the plain class word's face, drawn with the persona applied, with the photos learned from: "
    "the base's own if the word is kept, i_pre if everybody became the person; -1 where no face is found",
    "drift_obeyed": "share of these pictures whose own prompt fits best among all prompts",
}
PRIMARY = ""


def measure(observers: Observers, sample: Sample) -> dict[str, list[float | None]]:
    """One value of each for the first picture of a prompt, None for the others and for a sample without a plain one."""
    rest: list[float | None] = [None] * len(sample.pictures)
    if not sample.plain or not sample.pictures:
        return {name: rest for name in COLUMNS}
    plain = replace(sample, pictures=sample.plain)
    values = {
        "drift": i_pre.measure(observers, plain)["i_pre"],
        "drift_obeyed": r_precision.measure(observers, plain)["obeyed"],
    }
    return {name: [each[0], *rest[1:]] for name, each in values.items()}
