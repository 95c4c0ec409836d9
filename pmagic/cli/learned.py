"""What `pmagic learn` says at its end: about a learned persona, and after a stop."""

import shlex
from pathlib import Path

from pmagic.cli.stopping import Stopped
from pmagic.library import naming
from pmagic.library.naming import Address
from pmagic.library.store import Library
from pmagic.persona import Persona
from pmagic.tasks import learning
from pmagic.tasks.joint_learning import JointLearning
from pmagic.tasks.learning import Learning


def describe(library: Library, address: Address, persona: Persona) -> dict[str, object]:
    """A learned persona for the JSON document."""
    return {
        "persona": str(address),
        "folder": naming.folder_of(library.root, address),
        "base": persona.base,
        "word": persona.word,
        "method": persona.method,
        "bounds": [persona.bounds.low, persona.bounds.high],
        "curve": [list(point) for point in persona.curve],
        "settings": dict(persona.settings),
        "losses": dict(persona.losses),
    }


def describe_stop(name: str, task: Learning | JointLearning, folder: Path, *, at_once: bool) -> Stopped:
    """The message after a stop: where learning was, what is kept, and how to continue."""
    resume_command = f"pmagic learn --resume --name {shlex.quote(name)}"
    if task.phase == learning.COMPILING:
        return Stopped(
            f"learning {name} was stopped while compiling",
            f"to continue: {resume_command}",
            kept="the learning as it was before",
        )
    if task.phase == learning.PICTURING:
        return Stopped(
            f"learning {name} was stopped while drawing class pictures",
            f"to continue from there: {resume_command}",
            kept="the class pictures drawn so far",
        )
    if task.phase == learning.FINDING:
        when = "while finding its stages"
    elif not task.has_checkpoint(folder):
        when = "before its first step"
    else:
        steps = f"after {task.step} of {task.settings.iterations} iterations"
        when = "at once, in the middle of a step" if at_once else steps
        return Stopped(
            f"learning {name} was stopped {when}",
            f"to continue from there: {resume_command}",
            kept="what was learned so far",
        )
    return Stopped(
        f"learning {name} was stopped {when}", f"to start again: {resume_command}", kept="the options of the command"
    )
