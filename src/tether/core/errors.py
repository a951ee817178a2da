"""The errors a user may see: each says where, what came, and what was expected."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tether.core.printable import printable


def reason_of(error: BaseException) -> str:
    """What went wrong in one line, without the name of a file."""
    said = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return str(said).splitlines()[0]


class TetherError(Exception):
    """Base of every error that Tether raises on purpose; the command line prints it without a traceback.

    What it names, such as a file of somebody else's, is shown with its control characters escaped.
    """

    def __init__(self, message: str) -> None:
        """Args: message: where, what came, and what was expected; may be several lines."""
        super().__init__(printable(message, keep="\n"))


class InputError(TetherError, ValueError):
    """Something given from outside (a file, a row, a key, a shape) is not what it must be."""


class NotFiniteError(InputError):
    """What a model holds or computes is NaN or infinite."""


class UnsupportedModelError(InputError, NotImplementedError):
    """A model from outside is sound, but not of a kind that this method is defined for; the message says which are."""


class WriteError(TetherError, OSError):
    """A file could not be written: a full disk, no permission. What stood there before is unchanged."""

    def __init__(
        self, path: Path | str, error: BaseException, *, safe: str = "what stood there before is unchanged"
    ) -> None:
        """Name the file, the reason, and what is safe."""
        super().__init__(f"{path}: could not be written: {reason_of(error)}; {safe}")


class LockedError(TetherError):
    """Another process is writing there; the message gives its host and process id."""


class StoppedError(TetherError):
    """Asked to stop, the work saved its state first; the message says how to go on (exit code 130)."""


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Whatever another library raises in the block is an InputError that begins so, a panic of Rust code too."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, TetherError) or not is_fault(error):
            raise
        raise InputError(f"{what}: {type(error).__name__}: {' '.join(str(error).split()):.300}") from error


def is_fault(error: BaseException) -> bool:
    """Whether something went wrong: not Ctrl-C or the end of the process, but a panic of Rust code, no Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def installing(extra: str) -> str:
    """What to type for an extra: from the package index, and in a clone."""
    return f"pip install 'tether-clip[{extra}]' (in a checkout: pip install -e '.[{extra}]')"


class MissingExtraError(TetherError, ImportError):
    """An optional library is needed; the message names the extra that brings it."""

    def __init__(self, library: str, *, extra: str) -> None:
        """Name the missing library and the extra, e.g. ``MissingExtraError("ray", extra="ray")``."""
        super().__init__(f"this needs the library {library!r}; install it with: {installing(extra)}")
