"""Whether a model reads a text to its end, for who changes texts."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.models.tokenizer import TextCutWarning, lengths
from tether.models.towers.sizes import tokenizer_at

_WIDER = 16  # contexts that are looked at of a text


class FitsContext:
    """Counts what a model's tokenizer would cut, and as a constraint of an attack forbids it.

    One character more can be several tokens more, and what was the last word of a long text is then never read. Such a
    typo moves a text far, but by no letter.

    Example:
        >>> import tether
        >>> from tether.models.texts.truncation_check import FitsContext
        >>> model = tether.load("tiny", random_weights=True)
        >>> fits, long = FitsContext(model), "cat " * (model.tokenizer.context_length - 2)
        >>> fits.whole(["a cat", long, long + "x"]), fits([long + "x"], [long])
        ([True, True, False], [False])
    """

    def __init__(self, model: DualEncoder) -> None:
        """Args: model: any that ``tether.load`` gives."""
        self._context = model.tokenizer.context_length
        self._tokenizer = tokenizer_at(model.tokenizer, _WIDER * self._context)

    def whole(self, texts: Sequence[str]) -> list[bool]:
        """For each text whether it is read to its end."""
        with unheard():
            return (lengths(self._tokenizer(list(texts))) <= self._context).tolist() if len(texts) else []

    def __call__(self, changed: Sequence[str], texts: Sequence[str]) -> list[bool]:
        """See ``methods.leaf.typos.Constraint``: a changed text is read whole, or the text before was not either."""
        return [new or not old for new, old in zip(self.whole(changed), self.whole(texts), strict=True)]


def all_whole(texts: Sequence[str], model: DualEncoder) -> bool:
    """Whether the model reads all texts to their ends, whatever its tokenizer is."""
    try:
        model.tokenizer(texts, long_text="raise")
    except InputError:
        return False
    return True


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Nothing is said of texts that are cut inside, by those who count them themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextCutWarning)
        yield
