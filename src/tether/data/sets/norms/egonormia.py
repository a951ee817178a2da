"""EgoNormia: what to do next in a scene, why, and which options make sense, as multiple choice (arXiv 2502.20490)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from tether.core.atomic_io import decode_text, parse_json, read_bytes
from tether.core.errors import InputError
from tether.core.printable import quoted

KINDS = (
    "Safety", "Privacy", "Proxemics", "Politeness", "Cooperation", "Coordination/Proactivity",
    "Communication/Legibility",
)  # fmt: skip
NONE = "None of these."
"""What the empty option says: none of the others."""
JUDGED = "crowd workers of EgoNormia, of options that a language model wrote; what blind models know was dropped"
_LARGEST = 2**28


@dataclass(frozen=True, slots=True)
class NormItem:
    """One scene with its options; option i of both lists belongs together.

    Attributes:
        id: of the scene.
        behaviors: what one could do next; an empty one is "none of these".
        justifications: why, as many.
        correct: number of the right option.
        sensibles: numbers of those that make sense, ascending.
        kinds: norm kinds of each option, empty tuples where nobody said.
        desc: the scene in words, or the empty string.
    """

    id: str
    behaviors: tuple[str, ...]
    justifications: tuple[str, ...]
    correct: int
    sensibles: tuple[int, ...]
    kinds: tuple[tuple[str, ...], ...]
    desc: str

    @property
    def norm_kinds(self) -> tuple[str, ...]:
        """Kinds of the right option."""
        return self.kinds[self.correct]


@dataclass(frozen=True, slots=True)
class MultipleChoice:
    """An item as it is shown: options in another order.

    Source: arXiv 2502.20490, section 4; the released eval_api.py maps positions back with the inverse of the order.

    Attributes:
        item: the item.
        order: option shown at each position.

    Example:
        >>> import numpy as np
        >>> from tether.data.sets.norms import MultipleChoice, NormItem
        >>> item = NormItem("1", ("wait", "run"), ("polite", "late"), 0, (0,), ((), ()), "at a door")
        >>> view = MultipleChoice.shuffle(item, np.random.default_rng(3))
        >>> all(view.item.behaviors[view.to_original(at)] == said for at, said in enumerate(view.behaviors))
        True
    """

    item: NormItem
    order: tuple[int, ...]

    @classmethod
    def shuffle(cls, item: NormItem, rng: np.random.Generator) -> MultipleChoice:
        """The item in an order drawn from ``rng``."""
        return cls(item, tuple(int(place) for place in rng.permutation(len(item.behaviors))))

    def __iter__(self) -> Iterator[MultipleChoice | tuple[int, ...]]:
        """The view and its order, for who takes both apart: ``view, order = MultipleChoice.shuffle(item, rng)``."""
        yield self
        yield self.order

    @property
    def behaviors(self) -> tuple[str, ...]:
        """As shown."""
        return tuple(self.item.behaviors[place] or NONE for place in self.order)

    @property
    def justifications(self) -> tuple[str, ...]:
        """As shown."""
        return tuple(self.item.justifications[place] or NONE for place in self.order)

    def to_original(self, position: int) -> int:
        """The option shown at a position, counted from 0.

        Raises:
            InputError: no such position.
        """
        if not 0 <= position < len(self.order):
            raise InputError(f"position: expected 0 to {len(self.order) - 1}, got {position}")
        return self.order[position]


def load_egonormia(path: str | Path) -> list[NormItem]:
    """Read a JSON file of items by id, as the release has them.

    Raises:
        InputError: not such a file, an id that comes twice, other numbers of behaviours and justifications, fewer than
            two, or a right or sensible option that is none; with the ids.
    """
    text = decode_text(read_bytes(path, limit=_LARGEST), where=str(path))
    found = parse_json(text, where=str(path), twice="refused")
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path}: expected items by id, got {quoted(found)}")
    items = [_item(key, value, where=f"{path}: {key}") for key, value in found.items()]
    count = Counter(item.id for item in items)
    if twice := sorted(name for name, many in count.items() if many > 1):
        raise InputError(f"{path}: expected ids that differ, got {quoted(twice[0])} in {count[twice[0]]} items")
    return items


def overlap(mine: Collection[int] | None, theirs: Collection[int]) -> float:
    """Intersection over union of two sets of options: 1 where both are empty, 0 where there is no answer."""
    if mine is None:
        return 0.0
    union = set(mine) | set(theirs)
    return len(set(mine) & set(theirs)) / len(union) if union else 1.0


def _item(key: str, value: Any, *, where: str) -> NormItem:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: expected a mapping, got {quoted(value)}")
    behaviors, justifications = (
        _texts(value.get(name), where=f"{where}: {name}") for name in ("behaviors", "justifications")
    )
    count = len(behaviors)
    if count != len(justifications) or count < 2:
        raise InputError(
            f"{where}: expected as many justifications as behaviors, from two, got {len(justifications)} and {count}"
        )
    correct, sensibles = value.get("correct"), value.get("sensibles")
    if type(correct) is not int or not 0 <= correct < count:
        raise InputError(f"{where}: correct: expected 0 to {count - 1}, got {quoted(correct)}")
    if not isinstance(sensibles, list) or any(type(one) is not int or not 0 <= one < count for one in sensibles):
        raise InputError(f"{where}: sensibles: expected numbers from 0 to {count - 1}, got {quoted(sensibles)}")
    taxonomy, desc = value.get("taxonomy") or {}, value.get("desc") or ""
    if not isinstance(taxonomy, Mapping) or not isinstance(desc, str):
        raise InputError(f"{where}: expected taxonomy as a mapping and desc as text")
    kinds = tuple(_texts(taxonomy.get(str(place)) or [], where=f"{where}: taxonomy {place}") for place in range(count))
    return NormItem(
        str(value.get("id") or key), behaviors, justifications, correct, tuple(sorted(set(sensibles))), kinds, desc
    )


def _texts(value: Any, *, where: str) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(one, str) for one in value):
        raise InputError(f"{where}: expected a list of texts, got {quoted(value)}")
    return tuple(value)


def correct_options(items: Sequence[NormItem]) -> Int[np.ndarray, "n 2"]:
    """The right option twice, as behaviour and as justification."""
    return np.array([[item.correct, item.correct] for item in items])
