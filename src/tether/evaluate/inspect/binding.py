"""Binding of attributes: does "a red star and a blue ring" differ from "a blue star and a red ring"?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.core.finding import Bars, Figure, Finding, Gallery, Item
from tether.core.ranges import Count, checked
from tether.data.images import resize_and_crop
from tether.data.sets.scenes import Dice, Negative, ScenesSet, render, swap_attribute
from tether.evaluate.html.sprite import thumbnail_uri
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.intervals import bar_of, mean, share, shown, surely_above
from tether.evaluate.inspect.vocabulary import STOP, kind_of, replaced, spans

LEAST = 20
_MOST = 1000
_SHOWN = 8


@checked
@dataclass(frozen=True, kw_only=True)
class Binding:
    """Exchanges two words of a caption and asks the image which caption is true.

    Two different attribute words of one kind (colours, sizes, textures, states) are exchanged where a caption has them,
    else the first and the last different content words. On the data set ``scenes`` the image with the attributes
    exchanged is drawn as well, so that text, image and both together are tested as in Winoground.

    Args:
        most: captions tried at most.
    """

    title = "Binding of attributes (swap test)"
    presupposes_skill = True
    most: Count = _MOST

    def __call__(self, subject: Subject) -> Finding:
        """A remark when the true caption is not preferred clearly."""
        changed = [(place, *found) for place, found in enumerate(map(swapped, subject.seen.captions)) if found]
        attribute = [one for one in changed if one[2] != "word"]
        used = (attribute if len(attribute) >= LEAST else changed)[: self.most]
        if len(used) < LEAST:
            raise InputError(f"expected at least {LEAST} captions with two words to exchange, found {len(used)}")
        places = torch.tensor([place for place, _, _ in used])
        image = subject.image[subject.owner[places]]
        margin = (image * subject.text[places]).sum(1) - (
            image * subject.encode_texts([text for _, text, _ in used])
        ).sum(1)
        right = margin > 0
        kinds = {
            kind: torch.tensor([found == kind for _, _, found in used]) for kind in dict.fromkeys(k for *_, k in used)
        }
        figures: list[Figure] = [share("true caption preferred to the exchanged one (chance 50 %)", right)]
        figures += [
            share(f"of these, {kind}s exchanged", right[where]) for kind, where in kinds.items() if where.sum() >= LEAST
        ]
        figures.append(mean("how much nearer the true one is (difference of cosines)", margin))
        whole = figures[0]
        bars = [bar_of(one.name.removeprefix("of these, "), one) for one in figures[:-1]]
        drawings: list[Bars | Gallery] = []
        if isinstance(subject.source, ScenesSet):
            figures, drawn = _with_images(subject, subject.source, figures)
            drawings += drawn
        wrong = torch.argsort(margin, stable=True)[:_SHOWN].tolist()
        items = tuple(
            Item(
                int(subject.owner[places[at]]),
                f"preferred “{used[at][1]}”",
                f"true: “{subject.seen.captions[used[at][0]]}”",
            )
            for at in wrong
            if margin[at] <= 0
        )
        blind = not surely_above(whole, 0.5)
        sentence = (
            f"Captions are read like bags of words: in {shown(whole)} the true one is preferred to the same words "
            "exchanged, which chance would give too."
            if blind
            else f"In {shown(whole)} the true caption is preferred to the same words exchanged (chance 50 %)."
        )
        drawings = [Bars("True caption preferred", tuple(bars), "share", 0.5, "chance"), *drawings]
        if items:
            drawings.append(Gallery("Where the exchanged caption won most", items))
        return Finding(
            sentence,
            "note" if blind else "good",
            tuple(figures),
            tuple(drawings),
            "Exchanging words by rule may leave a caption true, or make it odd; an odd text is easier to refuse. "
            "Words are found by lists in English.",
            "tether-lab reproduce tripletclip; tether-lab reproduce clip-in; tether-lab reproduce labclip",
        )


def swapped(caption: str) -> tuple[str, str] | None:
    """The caption with two words exchanged and the kind of word, or None when it has no two to exchange."""
    found = spans(caption)
    for kind in ("colour", "texture", "size", "state"):
        mine = [one for one in found if kind_of(one[2]) == kind]
        other = next((one for one in mine[1:] if one[2] != mine[0][2]), None)
        if other is not None:
            return _exchange(caption, mine[0], other), kind
    content = [one for one in found if one[2] not in STOP and len(one[2]) > 2]
    if len(content) < 2 or content[0][2] == content[-1][2]:
        return None
    return _exchange(caption, content[0], content[-1]), "word"


def _exchange(caption: str, first: tuple[int, int, str], second: tuple[int, int, str]) -> str:
    words = caption[first[0] : first[1]], caption[second[0] : second[1]]
    changed = replaced(caption, [(first, words[1]), (second, words[0])])
    return _articles(changed)


def _articles(text: str) -> str:
    """``a`` and ``an`` as the following word wants them, so that grammar does not give the exchange away."""
    found = spans(text)
    changes = []
    for (start, end, word), (_, _, after) in pairwise(found):
        if word in ("a", "an"):
            wanted = "an" if after[0] in "aeiou" else "a"
            changes.append(((start, end, word), wanted.capitalize() if text[start].isupper() else wanted))
    return replaced(text, changes)


def _with_images(subject: Subject, scenes: ScenesSet, figures: Sequence[Figure]) -> tuple[list[Figure], list[Gallery]]:
    """Text, image and group score over scenes whose colours are exchanged in the image too."""
    dice = Dice(np.random.default_rng([subject.seed, 1]))
    twins: list[Negative] = []
    for key in (subject.seen.keys[row] for row in subject.sample.rows.tolist()):
        twin = swap_attribute(scenes.sample(int(key.rpartition("/")[2])).scene, dice)
        if twin is not None:
            twins.append(twin)
    if len(twins) < LEAST:
        return list(figures), []
    spec = subject.model.image_spec
    size = max(64, min(224, *spec.size))

    def drawn(scene: object) -> Tensor:
        return resize_and_crop(torch.from_numpy(render(scene, size=size).pixels).permute(2, 0, 1).contiguous(), spec)  # pyrefly: ignore

    before, after = (torch.stack([drawn(getattr(twin, side)) for twin in twins]) for side in ("scene", "other"))
    image, other = subject.encode_pixels(before), subject.encode_pixels(after)
    text, false = (subject.encode_texts([getattr(twin, side) for twin in twins]) for side in ("text", "other_text"))
    right, wrong = (image * text).sum(1), (image * false).sum(1)
    twin_right, twin_wrong = (other * false).sum(1), (other * text).sum(1)
    by_text = (right > wrong) & (twin_right > twin_wrong)
    by_image = (right > twin_wrong) & (twin_right > wrong)
    new = [
        share("scenes drawn both ways: both captions told right (chance 25 %)", by_text),
        share("scenes drawn both ways: both images told right (chance 25 %)", by_image),
        share("scenes drawn both ways: all four right (chance 17 %)", by_text & by_image),
    ]
    items = tuple(
        Item(None, twin.text if side == 0 else twin.other_text, uri=thumbnail_uri((before, after)[side][at]))
        for at, twin in enumerate(twins[:3])
        for side in (0, 1)
    )
    return [*figures, *new], [Gallery("Scenes and their twins with colours exchanged", items)]
