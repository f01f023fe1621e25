"""The root of every error that this project raises on purpose.

Each floor derives its own few classes from :class:`VmbusError`, next to the code that raises them. A caller that
serves a peer catches this one class: whatever a peer wrote or sent ends in a subclass of it, never in a traceback.
"""

from __future__ import annotations


class VmbusError(Exception):
    """Something went wrong that a person can act on; ``str(error)`` is one clear line for that person."""


class OptionError(VmbusError):
    """A value that somebody gave (on a command line, in a file of options) makes no sense: exit status 2."""
