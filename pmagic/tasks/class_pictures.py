"""The class pictures of a learning: the missing ones are drawn. Time, size and folder are said before."""

from dataclasses import replace
from typing import TYPE_CHECKING

from pmagic import settings
from pmagic.tasks.reporting import Reporter, duration

if TYPE_CHECKING:
    from pmagic.bases.loading import Base
    from pmagic.engine.subject import Subject


def add_to(reporter: Reporter, base: "Base", subject: "Subject", count: int) -> "Subject":
    """The subject with `count` class pictures of its word.

    Raises NumericFailure, OutOfMemory, StorageFailed, and what the reporter's progress raises.
    """
    from pmagic.engine import class_pictures

    root, word = settings.class_pictures_dir(), subject.word
    folder, absent = class_pictures.folder_of(base, word, root), class_pictures.count_missing(base, word, count, root)
    if not absent:
        reporter.say(f"using the {count} class pictures of {word!r} in {folder}")
        return replace(subject, class_latents=class_pictures.class_latents(base, word, count, root))
    if reporter.talks:
        seconds = class_pictures.seconds_to_draw(base, word, absent)
        reporter.say(
            f"drawing {absent} class pictures of {word!r} first: about {duration(seconds)}, "
            f"{class_pictures.kept_bytes(base, absent) / 1e6:.1f} MB in {folder}; "
            "other learnings of this word on this base will use them, too"
        )
    with reporter.progress(f"drawing class pictures of {word!r}") as advance:
        latents = class_pictures.class_latents(
            base, word, count, root, lambda done, total: advance(done, total, f"{absent} pictures")
        )
    return replace(subject, class_latents=latents)
