"""Why a tower, or a part of one, cannot be looked into: the one table that errors and tests read."""

from __future__ import annotations

from collections.abc import Mapping

from tether.core.errors import UnsupportedModelError

EXCEPTIONS: Mapping[str, str] = {
    "stranger": "expected a model of tether.load",
    "map": "its convolutions give a map of places, which never attend to one another; expected a vision "
    "transformer (dense_image gives its last map, without layer and path)",
    "other transformer": "its blocks are of a kind that is not known here; expected a plain vision transformer",
    "other text": "its blocks add before they normalise, as BERT's do, or are of a kind that is not known here; "
    "expected CLIP's or SigLIP's text transformer",
    "rows alone": "it gives one row for an image or a text and no tokens; expected a transformer",
    "gates": "the tower has gates, which scale what its blocks add; expected gate: none",
    "blocks": "expected pre-norm blocks that only add to the stream",
    "linear": "expected linear layers; an edit that stands in for them must be merged first",
    "pooling": "expected a class token, a mean or an attention with one query",
    "projection": "expected a linear map into the joint space",
    "final norm": "the tower has no single layer norm at its end",
    "padded left": "the texts are padded on the left; expected words at the start",
    "first layer": "expected an image tower that begins with one convolution over 3 channels, or one linear layer over "
    "patches",
    "no dropping": "it drops patches itself or reads one of them for all, so none can be left out; expected keep=None",
}
"""By what is missing. ``map``, ``other transformer``, ``other text`` and ``rows alone`` have no blocks at all, the rest
lack what one method needs."""


def refusal(reason: str, what: str) -> UnsupportedModelError:
    """The error for an entry of ``EXCEPTIONS``.

    Args:
        reason: the entry.
        what: the class or the options that it is about.
    """
    return UnsupportedModelError(f"{what}: {EXCEPTIONS[reason]}")
