"""The short caption that begins a long one."""

from __future__ import annotations


def first_sentence(caption: str) -> str:
    """What stands before the first full stop that a space follows, line ends read as spaces (arXiv 2403.15378).

    The released code's rule: the full stop goes, one at the very end stays, and an abbreviation ends it, too.

    Example:
        >>> from tether.data.captions.first_sentence import first_sentence
        >>> first_sentence("A red square. It sits on grass.")
        'A red square'
    """
    return caption.replace("\n", " ").split(". ", 1)[0]
