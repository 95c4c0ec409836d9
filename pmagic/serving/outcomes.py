"""How asking the server of this library can end without pictures. Needs no library of its own."""

from pmagic.errors import DoneInPart


class Unlike(Exception):
    """The server would not draw the very bytes that the command draws by itself, or cannot be asked. Says why."""


class ServerLost(DoneInPart):
    """The server ended, or stopped answering, before the drawing was complete."""
