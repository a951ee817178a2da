"""Attacks on a text encoder by a few changed characters, with all candidates of a round embedded at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Whole, checked
from tether.methods.leaf.typos import ALPHABET, DELETE, Character, Constraint, edit, slot_count
from tether.models.embed import encode_texts

Encode = Callable[[list[str]], Tensor]
"""From n texts to (n, d) rows; ``encode_read`` makes one of a model."""
Aim = Literal["l2", "negl2", "sim", "dissim", "margin"]
Alphabet = Annotated[Sequence[Character], MinLen(1)]
Draws = Int[Tensor, "k b n"]
_SPACE = ord(" ")
_TIE = 64
"""Roundings of the largest value below which two differ by chance: the batch they are in, or its padding."""
_Edit = tuple[int, int]  # slot and character


@dataclass(frozen=True, slots=True)
class Round:
    """What one round chose for each text.

    Attributes:
        slots: (b,) the place; -1 for a text that was left alone.
        characters: (b,) code point that was put there, -1 where one was deleted. The text stayed as it was where a
            constraint forbids the change.
        values: (b,) the objective afterwards.
    """

    slots: Int[Tensor, " b"]
    characters: Int[Tensor, " b"]
    values: Float[Tensor, " b"]


@dataclass(frozen=True, slots=True)
class Attacked:
    """What an attack found.

    Attributes:
        texts: the changed ones.
        features: (b, d) their rows, without gradient.
        trace: each round.
        encodings: texts that were embedded in the rounds; equal ones of a round count once.
    """

    texts: tuple[str, ...]
    features: Float[Tensor, "b d"]
    trace: tuple[Round, ...]
    encodings: int


def encode_read(model: DualEncoder) -> Encode:
    """The rows of texts by a model, which embeds once what it reads alike, as many tokenizers read capitals or spaces.

    Args:
        model: any that ``tether.load`` gives, in evaluation mode.
    """

    def encode(texts: list[str]) -> Float[Tensor, "n d"]:
        ids = list(map(tuple, model.tokenizer(texts).tolist()))
        first = dict(zip(reversed(ids), reversed(texts), strict=True))
        place = {row: number for number, row in enumerate(first)}
        return encode_texts(model, list(first.values()))[torch.tensor([place[row] for row in ids], dtype=torch.int64)]

    return encode


@checked
def leaf_attack(
    encode: Encode,
    texts: Sequence[str],
    anchors: Float[Tensor, "a d"],
    *,
    rho: Count = 50,
    k: Whole = 1,
    alphabet: Alphabet = ALPHABET,
    constraint: Constraint | None = None,
    objective: Aim = "l2",
    labels: Int[Tensor, " b"] | None = None,
    slots: Draws | None = None,
    chars: Draws | None = None,
    generator: torch.Generator | None = None,
) -> Attacked:
    """Change ``k`` characters of each text, so that its row fits the objective as well as it can.

    A round puts a space into ``rho`` places of each text and keeps the place that did best, then tries ``rho``
    characters there. The best becomes the text, even if it does less than the text before. All texts go together, so a
    round embeds two batches of ``b rho`` candidates, equal ones once. Places and characters are drawn without
    replacement, but where there are fewer than ``rho``. The first of equal candidates is taken, and what differs by
    rounding is equal: a tokenizer may know no capitals.

    Source: arXiv 2506.03355, section 4.1, and its released code; the attack it speeds up is ``charmer_attack``.

    Args:
        encode: of the model that is attacked, in evaluation mode.
        texts: b of them, empty ones too.
        anchors: a row for each text, such as what the model before its training gives for it; for ``margin`` one for
            each class.
        rho: candidates of each half of a round.
        k: rounds, that is, the Levenshtein distance that is allowed.
        alphabet: code points, or -1 for a deletion.
        constraint: which changes are allowed, against the text at the start of the round; a forbidden one counts as
            no change.
        objective: what is to be large: the squared distance from the anchor (``l2``), its negative (``negl2``, to come
            close to a target), the cosine (``sim``) or its negative (``dissim``), or the cosine of the best wrong class
            less that of the right one (``margin``), where a text is left alone from the round on that made it wrong.
        labels: (b,) the right classes, for ``margin``.
        slots: (k, b, rho) places, instead of drawing them; those of a later round are of the changed text.
        chars: (k, b, rho) positions in the alphabet, instead of drawing them.
        generator: of the draws, on the CPU; needed where one of them is not given.

    Raises:
        InputError: no text, rows of another shape, draws of another shape or past the end, or no generator.

    Example:
        >>> import tether, torch
        >>> from tether.methods.leaf.attack import encode_read, leaf_attack
        >>> encode = encode_read(tether.load("tiny", random_weights=True))
        >>> texts = ["a red square", "two dogs"]
        >>> found = leaf_attack(encode, texts, encode(texts), rho=5, generator=torch.Generator().manual_seed(0))
        >>> [abs(len(new) - len(old)) <= 1 for new, old in zip(found.texts, texts)], len(found.trace)
        ([True, True], 1)
    """
    draws = _Draws(k, len(texts), rho, slots=slots, chars=chars, alphabet=alphabet, generator=generator)
    attack = _Attack(encode, texts, anchors, objective=objective, labels=labels, constraint=constraint)
    for number in range(k):
        rows = attack.active()
        places = [draws.slots(number, row, attack.texts[row]) for row in rows]
        tried = attack.score(rows, [[(slot, _SPACE) for slot in some] for some in places])
        best = [some[_best(one.values)] for some, one in zip(places, tried, strict=True)]
        attack.take(
            rows, [[(slot, code) for code in draws.codes(number, row)] for row, slot in zip(rows, best, strict=True)]
        )
    return attack.done()


@checked
def random_typos(
    encode: Encode,
    texts: Sequence[str],
    anchors: Float[Tensor, "a d"],
    *,
    tries: Count = 100,
    k: Whole = 1,
    alphabet: Alphabet = ALPHABET,
    constraint: Constraint | None = None,
    objective: Aim = "l2",
    labels: Int[Tensor, " b"] | None = None,
    slots: Draws | None = None,
    chars: Draws | None = None,
    generator: torch.Generator | None = None,
) -> Attacked:
    """The best of ``tries`` random edits in each of ``k`` rounds: what ``leaf_attack`` has to beat at equal encodings.

    Those are ``tries = 2 rho``; with 1 it is a text with random typos, whatever the model makes of them.

    Args:
        encode: see ``leaf_attack``.
        texts: see ``leaf_attack``.
        anchors: see ``leaf_attack``.
        tries: edits of a text, places and characters drawn independently, with replacement.
        k: see ``leaf_attack``.
        alphabet: see ``leaf_attack``.
        constraint: see ``leaf_attack``.
        objective: see ``leaf_attack``.
        labels: see ``leaf_attack``.
        slots: (k, b, tries), see ``leaf_attack``.
        chars: (k, b, tries), see ``leaf_attack``.
        generator: see ``leaf_attack``.

    Raises:
        InputError: as for ``leaf_attack``.
    """
    draws = _Draws(k, len(texts), tries, slots=slots, chars=chars, alphabet=alphabet, generator=generator, again=True)
    attack = _Attack(encode, texts, anchors, objective=objective, labels=labels, constraint=constraint)
    for number in range(k):
        rows = attack.active()
        places = [draws.slots(number, row, attack.texts[row]) for row in rows]
        edits = [list(zip(some, draws.codes(number, row), strict=True)) for row, some in zip(rows, places, strict=True)]
        attack.take(rows, edits)
    return attack.done()


@checked
def charmer_attack(
    encode: Encode,
    texts: Sequence[str],
    anchors: Float[Tensor, "a d"],
    *,
    n: Count = 20,
    k: Whole = 1,
    alphabet: Alphabet = ALPHABET,
    constraint: Constraint | None = None,
    objective: Aim = "l2",
    labels: Int[Tensor, " b"] | None = None,
) -> Attacked:
    """Change ``k`` characters of each text by trying nearly everything: the attack to measure robustness with.

    A round puts a space into every place, keeps the ``n`` that did best, and tries the whole alphabet in each. Nothing
    is drawn. It goes text by text, and a text of m characters costs 2 m + 1 encodings and up to n times the alphabet.

    Source: arXiv 2405.04346 (Charmer), as arXiv 2506.03355 uses it; its released loops never score the last
    candidate, ours do.

    Args:
        encode: see ``leaf_attack``.
        texts: see ``leaf_attack``.
        anchors: see ``leaf_attack``.
        n: places of which every character is tried.
        k: see ``leaf_attack``.
        alphabet: see ``leaf_attack``.
        constraint: see ``leaf_attack``.
        objective: see ``leaf_attack``; ``margin`` is the variant for classification.
        labels: see ``leaf_attack``.

    Raises:
        InputError: as for ``leaf_attack``.

    Example:
        >>> import tether
        >>> from tether.methods.leaf.attack import charmer_attack, encode_read
        >>> encode = encode_read(tether.load("tiny", random_weights=True))
        >>> found = charmer_attack(encode, ["a dog"], encode(["a dog"]), n=2, alphabet=[-1, ord("x")])
        >>> found.encodings <= 11 + 2 * 2, len(found.trace)
        (True, 1)
    """
    attack = _Attack(encode, texts, anchors, objective=objective, labels=labels, constraint=constraint)
    for _ in range(k):
        edits: list[list[_Edit]] = []
        rows = attack.active()
        for row in rows:
            (tried,) = attack.score([row], [[(slot, _SPACE) for slot in range(slot_count(attack.texts[row]))]])
            order = tried.values.argsort(descending=True, stable=True)[:n].tolist()
            edits.append([(slot, code) for slot in order for code in alphabet])
        attack.take(rows, edits, together=1)
    return attack.done()


@dataclass(frozen=True, slots=True)
class _Scored:
    """The candidates of one text: what they are, the objective and the rows."""

    texts: list[str]
    values: Float[Tensor, " m"]
    rows: Float[Tensor, "m d"]


class _Attack:
    """Texts that change, what is wanted of them, and the choice of the best candidate."""

    def __init__(
        self,
        encode: Encode,
        texts: Sequence[str],
        anchors: Tensor,
        *,
        objective: Aim,
        labels: Tensor | None,
        constraint: Constraint | None,
    ) -> None:
        self.texts, self._encode, self._constraint, self._objective = list(texts), encode, constraint, objective
        if not self.texts:
            raise InputError("texts: expected at least one, got none")
        self._labels = _classes(labels, len(self.texts), objective=objective, anchors=anchors)
        self._anchors, self._encodings, self._trace = anchors, 0, list[Round]()
        self._rows = self._embed(self.texts)
        self._values, self._encodings = self._value(self._rows, torch.arange(len(self.texts))), 0

    def active(self) -> list[int]:
        """Texts that are still changed: all, or those whose class is still the right one."""
        if self._objective != "margin":
            return list(range(len(self.texts)))
        return (self._values <= 0).nonzero()[:, 0].tolist()

    def score(self, rows: Sequence[int], edits: Sequence[Sequence[_Edit]]) -> list[_Scored]:
        """Embed the edits of some texts; a forbidden one counts as the text unchanged, equal ones are embedded once."""
        sizes, owner = [len(some) for some in edits], [row for row, some in zip(rows, edits, strict=True) for _ in some]
        before = [self.texts[row] for row in owner]
        flat = [
            edit(text, slot, code, alternative=DELETE)
            for text, (slot, code) in zip(before, (one for some in edits for one in some), strict=True)
        ]
        if self._constraint is not None:
            allowed = self._constraint(flat, before)
            flat = [new if good else old for new, old, good in zip(flat, before, allowed, strict=True)]
        place = {text: number for number, text in enumerate(dict.fromkeys(flat))}
        found = self._embed(list(place))[torch.tensor([place[text] for text in flat], dtype=torch.int64)]
        values = self._value(found, torch.tensor(owner, dtype=torch.int64))
        ends = torch.tensor(sizes).cumsum(0).tolist()
        return [
            _Scored(flat[end - size : end], values[end - size : end], found[end - size : end])
            for end, size in zip(ends, sizes, strict=True)
        ]

    def take(self, rows: Sequence[int], edits: Sequence[Sequence[_Edit]], *, together: int | None = None) -> None:
        """End a round: each text becomes the first of its best edits. ``together`` texts are embedded at once."""
        slots, codes = torch.full((len(self.texts),), -1), torch.full((len(self.texts),), DELETE)
        self._rows, self._values = self._rows.clone(), self._values.clone()
        step = together or max(1, len(rows))
        for start in range(0, len(rows), step):
            some, tried = rows[start : start + step], edits[start : start + step]
            for row, given, found in zip(some, tried, self.score(some, tried), strict=True):
                best = _best(found.values)
                self.texts[row], self._rows[row], self._values[row] = (
                    found.texts[best],
                    found.rows[best],
                    found.values[best],
                )
                slots[row], codes[row] = given[best]
        self._trace.append(Round(slots, codes, self._values))

    def done(self) -> Attacked:
        """What was found."""
        return Attacked(tuple(self.texts), self._rows, tuple(self._trace), self._encodings)

    def _embed(self, texts: list[str]) -> Tensor:
        if not texts:
            return self._rows[:0]
        rows = self._encode(texts).detach()
        self._encodings += len(texts)
        if rows.ndim != 2 or self._anchors.ndim != 2 or rows.shape != (len(texts), self._anchors.shape[1]):
            found = f"{tuple(rows.shape)} for {len(texts)} texts, and anchors {tuple(self._anchors.shape)}"
            raise InputError(f"encode: expected a row for each text, as wide as the anchors; got {found}")
        if not bool(rows.isfinite().all()):
            raise InputError("encode: expected finite rows, got NaN or infinity")
        return rows

    def _value(self, rows: Float[Tensor, "m d"], owner: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        anchors, owner = self._anchors.detach().to(rows), owner.to(rows.device)
        if self._labels is not None:
            logits = F.normalize(rows, dim=1) @ F.normalize(anchors, dim=1).T
            true = self._labels.to(rows.device)[owner, None]
            return logits.scatter(1, true, -torch.inf).amax(dim=1) - logits.gather(1, true)[:, 0]
        if self._objective in ("sim", "dissim"):
            near = F.cosine_similarity(rows, anchors[owner], dim=1)
            return near if self._objective == "sim" else -near
        far = (rows - anchors[owner]).square().sum(dim=1)
        return far if self._objective == "l2" else -far


def _best(values: Float[Tensor, " m"]) -> int:
    """The first of the largest."""
    largest = values.max()
    return int((values >= largest - _TIE * torch.finfo(values.dtype).eps * largest.abs()).nonzero()[0])


def _classes(labels: Tensor | None, count: int, *, objective: Aim, anchors: Tensor) -> Tensor | None:
    """The labels, checked; rows of anchors as well."""
    if (objective == "margin") != (labels is not None):
        raise InputError(f"labels: expected classes for the objective 'margin' alone, got objective {objective!r}")
    if labels is None:
        if len(anchors) != count:
            raise InputError(f"anchors: expected a row for each of {count} texts, got {len(anchors)}")
        return None
    if len(anchors) < 2 or labels.shape != (count,) or int(labels.min()) < 0 or int(labels.max()) >= len(anchors):
        found = f"{tuple(labels.shape)}, the largest {int(labels.max()) if labels.numel() else None}"
        raise InputError(f"labels: expected one of {len(anchors)} (at least 2) classes for each text, got {found}")
    return labels


class _Draws:
    """Places and characters of every round, given or drawn when they are asked for."""

    def __init__(
        self,
        k: int,
        count: int,
        size: int,
        *,
        slots: Tensor | None,
        chars: Tensor | None,
        alphabet: Sequence[int],
        generator: torch.Generator | None,
        again: bool = False,
    ) -> None:
        if generator is None and k and (slots is None or chars is None):
            raise InputError("generator: expected one, or slots and chars, for nothing is drawn from the global one")
        for name, given in (("slots", slots), ("chars", chars)):
            if given is not None and given.shape != (k, count, size):
                raise InputError(f"{name}: expected ({k}, {count}, {size}), got {tuple(given.shape)}")
        if chars is not None and chars.numel() and not 0 <= int(chars.min()) <= int(chars.max()) < len(alphabet):
            raise InputError(
                f"chars: expected positions in an alphabet of {len(alphabet)}, got up to {int(chars.max())}"
            )
        self._given, self._alphabet, self._size = (slots, chars), alphabet, size
        self._generator, self._again = generator, again

    def slots(self, number: int, row: int, text: str) -> list[int]:
        """Of a text, in a round."""
        given = self._given[0]
        if given is None:
            return self._draw(slot_count(text))
        return given[number, row].tolist()

    def codes(self, number: int, row: int) -> list[int]:
        """Characters of a text, in a round."""
        given = self._given[1]
        places = self._draw(len(self._alphabet)) if given is None else given[number, row].tolist()
        return [self._alphabet[place] for place in places]

    def _draw(self, count: int) -> list[int]:
        if self._again or self._size > count:
            return torch.randint(count, (self._size,), generator=self._generator).tolist()
        return torch.randperm(count, generator=self._generator)[: self._size].tolist()
