"""Errors that a person can act on. Any other exception is a defect of the program.

PmagicError                     exit code
├── UsageError            2   a value on the command line that cannot be used
├── NotFound                3   no such persona, base, file
├── PhotoRefused            4   unreadable, not an image, no face, several faces, too small
├── BundleDamaged           5   a persona on disk that does not verify
├── Incompatible            6   another format version, another base, another fingerprint
├── WeightsMissing          7   a base or an observer that is not on this machine
├── StorageFailed           8   disk full, no permission
├── Busy                    9   another process is using the same name, file or library
├── NumericFailure          10  NaN or infinity in a loss or a picture
├── OutOfMemory             11
└── DoneInPart              12  some of several things failed; the rest is kept
130: the person stopped the command. 1: a defect of the program.
"""


class PmagicError(Exception):
    """What happened (with the value), what was kept, and what to type next."""

    exit_code = 1

    def __init__(self, what: str, next_step: str = "", kept: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step
        self.kept = kept

    def as_dict(self) -> dict[str, object]:
        """The fields that `--json` prints."""
        return {
            "error": type(self).__name__,
            "exit_code": self.exit_code,
            "what": self.what,
            "kept": self.kept,
            "next": self.next_step,
        }


class UsageError(PmagicError):
    exit_code = 2


class NotFound(PmagicError):
    exit_code = 3


class PhotoRefused(PmagicError):
    exit_code = 4


class BundleDamaged(PmagicError):
    exit_code = 5


class Incompatible(PmagicError):
    exit_code = 6


class WeightsMissing(PmagicError):
    exit_code = 7


class StorageFailed(PmagicError):
    exit_code = 8


class Busy(PmagicError):
    exit_code = 9


class NumericFailure(PmagicError):
    exit_code = 10


class OutOfMemory(PmagicError):
    exit_code = 11


class DoneInPart(PmagicError):
    exit_code = 12


STOPPED_BY_PERSON = 130
