"""A head from its folder."""

from __future__ import annotations

from pathlib import Path

from tether.adaptation.heads.head import Head, HeadUse, read_head
from tether.adaptation.heads.registry import ADAPTED_HEADS
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder


def load_head(folder: Path | str, *, model: DualEncoder | None = None) -> Head:
    """Open what ``Head.save`` wrote.

    Args:
        folder: that holds it.
        model: the encoder it shall be used with; None opens it without looking at one.

    Raises:
        InputError: no head there, an unknown kind, a damaged file, or an encoder whose image side is not the one that
            it was fitted on; both digests are named.

    Example:
        >>> import tempfile, torch, tether
        >>> from tether.adaptation.heads import LinearHead, load_head
        >>> model = tether.load("tiny", random_weights=True)
        >>> head = LinearHead(torch.eye(2, model.dim), classes=("cat", "dog")).bind_(model)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_head(head.save(folder), model=model).classes
        ('cat', 'dog')
    """
    return read_head(folder, ADAPTED_HEADS, model=model)


def head_for(verb: str, given: Head | Path | str, *, option: str = "--head") -> tuple[Head, HeadUse]:
    """A head that a verb takes, and how.

    Args:
        verb: the verb, such as ``segment``; see ``Head.verb``.
        given: a head, or the folder of one.
        option: option that named it, for errors.

    Raises:
        InputError: no head, or one that the verb does not take; it names the recipes that make one.
    """
    found = given if isinstance(given, Head) else load_head(given)
    if found.verb != verb:
        *others, last = [kind.recipe for kind in ADAPTED_HEADS.working().values() if kind.verb == verb]
        made = f"{', '.join(others)} or {last}" if others else last
        raise InputError(
            f"{option}: {found.where}: expected one that tether adapt made by {made}, got one of kind {found.kind}"
        )
    return found, found.use()
