"""`pmagic learn --together`: several personas, each from a photo of its own, for pictures that show them all."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pmagic import settings
from pmagic.cli import learned, resuming
from pmagic.cli.console import Console
from pmagic.cli.options import parse_stages
from pmagic.cli.resuming import LearnArgs
from pmagic.cli.stopping import LeftAtOnce, StopAtStep, Stopped
from pmagic.errors import UsageError
from pmagic.library import unfinished
from pmagic.library.store import Library
from pmagic.tasks import joint_learning
from pmagic.tasks.reporting import duration


def learn(console: Console, names: Sequence[str], arguments: LearnArgs, *, memory: str, resumed: bool) -> None:
    """Learns the personas and keeps each. The unfinished learning is kept under the first name."""
    words = _check(names, arguments)
    library, first = Library(settings.library_dir()), names[0]
    for name in names:
        library.require_free(name)
    task = joint_learning.prepare(
        console,
        names,
        [Path(each) for each in arguments.photos],
        words,
        method=arguments.method,
        iterations=arguments.iterations,
        base=arguments.base,
        recipe=arguments.recipe,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        rank=arguments.rank,
        prior=arguments.prior,
        bounds=parse_stages(arguments.stages),
        seed=arguments.seed,
        device=arguments.device,
        dtype=arguments.dtype,
        memory=memory,
    )
    base, who = task.first.base, " and ".join(names)
    for name in names:
        library.require_same_base(name, base.name, base.fingerprint)
    console.say(
        f"learning {who} together on {base.spec.name} ({base.device}, {base.computes_in}): "
        f"{task.settings.iterations} iterations of {task.settings.batch} for each"
    )
    start = time.monotonic()
    with ExitStack() as locks:
        folder = locks.enter_context(unfinished.locked_run(library.root, first))
        for name in sorted(names[1:]):
            locks.enter_context(unfinished.locked_run(library.root, name))
        resuming.start_run(folder, first, arguments, base.spec.name, task.inputs(), resumed=resumed)
        anew = f"start over with `{resuming.command(first, arguments)}`"
        try:
            personas = task.run(StopAtStep(console), folder=folder, resumed=resumed, anew=anew)
        except (KeyboardInterrupt, Stopped) as stop:
            raise learned.describe_stop(first, task, folder, at_once=isinstance(stop, LeftAtOnce)) from stop
        addresses = []
        for name, persona in zip(names, personas, strict=True):
            # If an earlier run was killed between saving and clearing, the persona is in the library already.
            known = library.find_same(name, persona) if resumed or task.first.continued else None
            addresses.append(known or library.save(name, persona))
        unfinished.clear(folder, f"{' and '.join(map(str, addresses))} are learned and kept; ")
    seconds = time.monotonic() - start
    console.say(
        f"{' and '.join(map(str, addresses))} were learned in {duration(seconds)}; next: "
        f'pmagic compose "a photo of {" and ".join(f"{{{name}}}" for name in names)}"'
    )
    described = [learned.describe(library, *each) for each in zip(addresses, personas, strict=True)]
    document = {"personas": described, "seconds": round(seconds, 1), "warnings": console.warnings}
    console.result([str(each) for each in addresses], document)


def _check(names: Sequence[str], arguments: LearnArgs) -> list[str | None]:
    """The class word of each persona. Raises UsageError for what several personas cannot have."""
    photos, words = arguments.photos, arguments.words
    if len(set(names)) != len(names):
        raise UsageError("--together needs a different --name for each persona", "give each its own")
    if len(photos) != len(names):
        raise UsageError(
            f"--together needs one photo, or one folder of photos, for each --name: {len(photos)} for {len(names)}",
            "give them in the order of the names",
        )
    if len(words) not in (0, 1, len(names)):
        raise UsageError(
            f"--together needs one --class for all or one for each --name: {len(words)} for {len(names)}",
            "give them in the order of the names",
        )
    for option, value in (("--style", arguments.style), ("--face", arguments.face), ("--mask", arguments.mask)):
        if value not in (None, False):
            raise UsageError(f"{option} is for one persona, not for several --together", f"leave {option} out")
    if arguments.compile:
        raise UsageError("--compile does not go with a method that trains weights", "leave out --compile")
    return list(words) if len(words) == len(names) else [words[0] if words else None] * len(names)
