"""Conformity: which images and captions are most common among their kind, which most unusual (arXiv 2411.14517)."""

from __future__ import annotations

import numpy as np

from tether.core.finding import Finding, Gallery, Item
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.intervals import capitalised, exact
from tether.space.conformity import conformity

LEAST_ROWS = 4
NARROW = 0.8
"""Mean cosine of two images (or texts) above which nearly all of the space lies unused."""
_SHOWN = 6


class Common:
    """Mean cosine of each row to all others of its kind, exactly."""

    title = "Conformity: the most common and the most unusual"

    def __call__(self, subject: Subject) -> Finding:
        """A remark when all rows of a kind lie in a narrow cone."""
        subject.need_pairs(LEAST_ROWS)
        figures, drawings, middle = [], [], {}
        for name, rows in (("image", subject.seen.image), ("text", subject.seen.text)):
            found = conformity(rows.double().numpy())
            middle[name] = float(found.mean())
            figures += [
                exact(f"mean cosine of two {name}s", middle[name]),
                exact(f"deviation of the conformity of {name}s", float(found.std())),
            ]
            order = np.argsort(-found, kind="stable")
            if name == "text":  # equal captions are shown once
                order = order[np.isin(order, subject.distinct)]
            for title, places in (("Most common", order[:_SHOWN]), ("Most unusual", order[::-1][:_SHOWN])):
                drawings.append(
                    Gallery(f"{title} {name}s", tuple(_item(subject, name, int(at), found[at]) for at in places))
                )
        narrow = [name for name, value in middle.items() if value > NARROW]
        said = " and ".join(f"two {name}s have a mean cosine of {value:.2f}" for name, value in middle.items())
        cone = f"; all {' and '.join(narrow)}s crowd into a narrow cone" if narrow else ""
        return Finding(
            f"{capitalised(said)}{cone}.",
            "note" if narrow else "good",
            tuple(figures),
            tuple(drawings),
            "Common means near the mean of these pairs. It is no quality, and it changes with the pairs.",
            "tether-lab reproduce double-ellipsoid",
        )


def _item(subject: Subject, name: str, at: int, value: float) -> Item:
    if name == "text":
        return Item(None, subject.seen.captions[at], f"{value:.2f}")
    return Item(at, subject.name_of(at), f"{value:.2f}")
