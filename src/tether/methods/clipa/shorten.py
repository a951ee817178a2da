"""Captions with fewer words: their beginning, some words at random, a run of words, or the words that tell most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar, final

from annotated_types import Ge

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.core.types import Row
from tether.data.captions.augment import PLAIN_PICKS, Augmented
from tether.data.captions.lexicon import ENGLISH
from tether.data.captions.pos_tags import LexiconTagger, Tagger, pos_class
from tether.data.captions.rng import Chance, below, of_key
from tether.data.captions.sampling import CaptionPick, SomeSentences

Shortening = Literal["truncate", "random", "block", "syntax"]
Piece = TypeVar("Piece")


@checked
def shorten(
    pieces: Sequence[Piece],
    *,
    most: Count,
    method: Shortening = "truncate",
    classes: Sequence[int] | None = None,
    keep_order: bool = True,
    generator: Chance | None = None,
) -> list[Piece]:
    """At most ``most`` words, or token ids, of a text; all of a text that is short enough.

    Source: arXiv 2305.07017, section 3.2, and the released code. Differs in ``block``, which there never reaches the
    last piece, and in ``random``, where ``keep_order=False`` is the release's.

    Args:
        pieces: words or token ids, without start and end.
        most: of them.
        method: ``truncate`` takes the first; ``random`` any; ``block`` a run of neighbours, each start as likely;
            ``syntax`` those of the lowest class, the first among equals, in the text's order.
        classes: for ``syntax``, of each piece, see ``pos_class``.
        keep_order: ``random`` leaves the pieces in the text's order, else in that of the draw.
        generator: for ``random`` and ``block``.

    Raises:
        InputError: no generator or no classes where they are needed, or another number of classes than of pieces.

    Example:
        >>> from tether.methods.clipa.shorten import shorten
        >>> words = "there is a dog on the green sofa".split()
        >>> shorten(words, most=3)
        ['there', 'is', 'a']
        >>> shorten(words, most=3, method="syntax", classes=[4, 3, 4, 1, 4, 4, 2, 1])
        ['dog', 'green', 'sofa']
    """
    count = len(pieces)
    if classes is not None and len(classes) != count:
        raise InputError(f"classes: expected one for each of {count} pieces, got {len(classes)}")
    if method == "syntax" and classes is None:
        raise InputError("classes: syntax needs one for each piece, such as pos_class of its tag")
    if method in ("random", "block") and generator is None:
        raise InputError(f"generator: {method} draws; expected one, such as random.Random(0)")
    if count <= most:
        return list(pieces)
    return [pieces[place] for place in _places(count, most, method, classes, keep_order, generator)]


def _places(
    count: int, most: int, method: Shortening, classes: Sequence[int] | None, keep_order: bool, chance: Chance | None
) -> Sequence[int]:
    if method == "syntax" and classes is not None:
        return sorted(sorted(range(count), key=classes.__getitem__)[:most])
    if method == "random" and chance is not None:
        noise = [chance.random() for _ in range(count)]
        drawn = sorted(range(count), key=noise.__getitem__)[:most]
        return sorted(drawn) if keep_order else drawn
    start = 0 if chance is None or method == "truncate" else below(count - most + 1, generator=chance)
    return range(start, start + most)


_INNER: Mapping[str, type[CaptionPick]] = {**PLAIN_PICKS, "sentences": SomeSentences, "augmented": Augmented}


@final
class Shortened:
    """The caption that another pick chooses, with so few words that they fit into a short context (CLIPA).

    A text tower's cost grows with the length of the texts, and most words of a caption say little. Which words stay is
    decided before they become tokens, as in CLIPA's PyTorch code; words of several tokens may still be cut at the
    context, so give the text view or the stage the same ``context``.

    Source: arXiv 2305.07017, section 3.2.

    Attributes:
        cuts_meant: whether texts are meant to be cut at the context, so that a run says nothing of it.

    Example:
        >>> from tether.core.types import Row
        >>> from tether.methods.clipa.shorten import Shortened
        >>> row = Row("key", None, ("this is a photo of a small black dog on the very green lawn",))
        >>> Shortened(context=7)(row, draw=0)
        'photo small black dog lawn'
    """

    cuts_meant: ClassVar[bool] = True

    @checked
    def __init__(
        self,
        *,
        context: Annotated[int, Ge(3)],
        method: Shortening = "syntax",
        keep_order: bool = True,
        inner: str | dict[str, Any] = "random",
        words: str = ENGLISH,
        tagger: Tagger | None = None,
    ) -> None:
        """Take the settings.

        Args:
            context: tokens of a text, its start and end among them; two fewer words stay.
            method: which, see ``shorten``.
            keep_order: of ``random``.
            inner: which of the row's captions is shortened, a name or settings as in a recipe.
            words: lists for ``syntax``, see ``LexiconTagger``.
            tagger: instead of them.
        """
        from tether.core.component import build

        self.inner: CaptionPick = build(inner, _INNER, where="shortened: inner")
        self.most, self.method, self.keep_order = context - 2, method, keep_order
        self.tagger = LexiconTagger(words=words) if tagger is None else tagger

    def __call__(self, row: Row, *, draw: int) -> str:
        """See CaptionPick."""
        return self.shortened(self.inner(row, draw=draw), generator=of_key(str(draw), seed=0, salt="shorten"))

    def shortened(self, text: str, *, generator: Chance) -> str:
        """A text with at most as many words."""
        words = text.split()
        classes = None
        if self.method == "syntax" and len(words) > self.most:
            classes = [pos_class(tag) for tag in self.tagger(words)]
        method = self.method if len(words) > self.most else "truncate"
        found = shorten(
            words, most=self.most, method=method, classes=classes, keep_order=self.keep_order, generator=generator
        )
        return " ".join(found)
