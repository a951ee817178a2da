"""The modality gap, and whether closing it would change anything here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tether.core.finding import Cloud, Finding
from tether.evaluate.geometry import modality_gap
from tether.evaluate.html.projection import clouds
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.intervals import exact, mean, points, surely_above, surely_below
from tether.evaluate.inspect.pairing import pair_up
from tether.evaluate.measures import at_most

LEAST_PAIRS = 20
MATTERS = 0.02
"""Change of recall at 1, of all, that is worth a remark."""
_POINTS = 400


class Gap:
    """Distance of the two centres, and recall with each side moved to its own centre."""

    title = "The modality gap, and whether it matters here"
    presupposes_skill = True

    def __call__(self, subject: Subject) -> Finding:
        """A remark when closing the gap changes recall at 1."""
        subject.need_pairs(2)
        image, text, owner = subject.image, subject.text, subject.owner
        distance = float(modality_gap(image, text))
        cosine = (image[owner] * text).sum(dim=1)
        moved_image, moved_text = (F.normalize(side - side.mean(dim=0), dim=-1) for side in (image, text))
        moved = pair_up(moved_image, moved_text, owner=owner, captions=subject.seen.captions)
        before = subject.by_cosine
        changes = {
            "caption to image": (moved.text_ranks <= 1).double() - (before.text_ranks <= 1).double(),
            "image to caption": (moved.image_ranks <= 1).double() - (before.image_ranks <= 1).double(),
        }
        figures = [
            exact("distance of the centres (0 to 2)", distance),
            mean("cosine of a pair", cosine),
            exact("images and texts separated by one plane across the gap", _separated(image, text), unit="share"),
            *(
                mean(f"{name}, change of recall at 1 with the gap closed", change, unit="share")
                for name, change in changes.items()
            ),
        ]
        tested = figures[-2:]
        clear = [one for one in tested if abs(one.value) >= MATTERS and (surely_above(one, 0) or surely_below(one, 0))]
        few = len(before.image) < LEAST_PAIRS
        said = f"Images and texts lie {distance:.2f} apart (of at most 2)"
        change = ", ".join(points(one.value) for one in tested)
        if few:
            sentence, level = (
                f"{said}; with {len(before.image)} pairs it cannot be told whether that matters.",
                "unknown",
            )
        elif clear:
            better = any(one.value > 0 for one in clear)
            sentence = (
                f"{said}, and closing the gap {'helps' if better else 'harms'} here: recall at 1 changes by {change}."
            )
            level = "note" if better else "good"
        else:
            sentence, level = (
                f"{said}; closing the gap would change recall at 1 by {change}: it does not matter here.",
                "good",
            )
        return Finding(
            sentence,
            level,
            tuple(figures),
            (_cloud(subject),),
            "Recall within one kind of answer cannot see a gap. Where images and texts are ranked in one list, or a "
            "generator reads both, a gap can matter all the same. Centring is the plainest way to close it.",
            "tether-lab reproduce contrastive-gap; tether-lab reproduce alignclip",
        )


def _separated(image: Tensor, text: Tensor) -> float:
    """Balanced fraction of rows on their own side of the plane halfway between the centres."""
    across = image.mean(dim=0) - text.mean(dim=0)
    middle = (image.mean(dim=0) + text.mean(dim=0)) @ across / 2
    right = ((image @ across > middle).double().mean(), (text @ across < middle).double().mean())
    return float(sum(right) / 2)


def _cloud(subject: Subject) -> Cloud:
    image, text = (at_most(torch.arange(len(side)), _POINTS) for side in (subject.image, subject.text))
    return Cloud("Both kinds in their two main directions", *clouds(subject.image[image], subject.text[text]))
