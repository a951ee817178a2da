"""The errors a user may see: each says where, what came, and what was expected."""

from __future__ import annotations


class TetherError(Exception):
    """Base of every error that Tether raises on purpose; the command line prints it without a traceback."""


class InputError(TetherError, ValueError):
    """Something given from outside (a file, a row, a key, a shape) is not what it must be."""


class UnsupportedModelError(InputError, NotImplementedError):
    """A model from outside is sound, but not of a kind that this method is defined for; the message says which are."""


class StoppedError(TetherError):
    """Asked to stop, the work saved its state first; the message says how to go on (exit code 130)."""


class MissingExtraError(TetherError, ImportError):
    """An optional library is needed; the message names the extra that brings it."""

    def __init__(self, library: str, *, extra: str) -> None:
        """Name the missing library and the extra, e.g. ``MissingExtraError("ray", extra="ray")``."""
        super().__init__(f"this needs the library {library!r}; install it with: pip install 'tether[{extra}]'")
