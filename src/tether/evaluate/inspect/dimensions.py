"""How many directions the embeddings use, and which coordinates are dead or stand far out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.core.finding import Curve, Figure, Finding
from tether.core.ranges import Inner, Limit, checked
from tether.evaluate.geometry import effective_rank
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.intervals import exact
from tether.space.outlier_dims import LEAST_DIMS, outlier_dims

LEAST_ROWS = 8
DEAD = 1e-3
"""Standard deviation, as a fraction of the median coordinate's, below which a coordinate is dead."""
_NAMED = 12


@checked
@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """Effective rank, dead coordinates, and coordinates whose mean lies far from the others' (arXiv 2011.04393).

    Args:
        dead: deviation below which a coordinate is dead, as a fraction of the median coordinate's.
        z: how many deviations off a coordinate's mean must lie to be an outlier.
    """

    title = "Directions in use, dead and outlying coordinates"
    dead: Inner = DEAD
    z: Limit = 3.0

    def __call__(self, subject: Subject) -> Finding:
        """An alarm names dead coordinates."""
        sides = {"image": subject.seen.image, "text": subject.seen.text}
        sides = {name: rows for name, rows in sides.items() if len(rows) >= LEAST_ROWS}
        if not sides:
            raise InputError(f"expected at least {LEAST_ROWS} images or captions")
        figures: list[Figure] = []
        drawings, dead, out = [], {}, {}
        flat = []
        for name, rows in sides.items():
            deviation = rows.double().std(dim=0)
            typical = float(deviation.median())
            if not float(deviation.max()) > 1e-7 * float(rows.double().abs().max()):
                flat.append(name)
                continue
            dead[name] = torch.nonzero(deviation <= self.dead * (typical or float(deviation.max()))).flatten().tolist()
            out[name] = _outliers(rows, z=self.z)
            rank = float(effective_rank(rows - rows.mean(dim=0)))
            figures += [
                exact(f"effective rank of {name}s, mean removed (of {min(rows.shape)})", rank),
                exact(f"dead coordinates of {name}s", len(dead[name]), unit="count"),
                exact(f"outlying coordinates of {name}s", len(out[name]), unit="count"),
            ]
            drawings.append(
                Curve(
                    f"Spread of each coordinate, {name}s; marked are dead and outlying ones",
                    tuple((deviation / deviation.max()).tolist()),
                    "coordinate",
                    tuple(sorted({*dead[name], *out[name]})),
                )
            )
        if flat:
            which = " and all ".join(f"{name} embeddings" for name in flat)
            sentence, level = f"All {which} are equal: the model says the same of everything.", "alarm"
        elif any(dead.values()):
            said = "; ".join(f"{_list(places)} for {name}s" for name, places in dead.items() if places)
            sentence, level = f"Dead coordinates that never change: {said}.", "alarm"
        else:
            rank = ", ".join(f"{figure.value:.0f} for {name}s" for name, figure in zip(dead, figures[::3], strict=True))
            far = sum(map(len, out.values()))
            extra = f"; {far} coordinate{'s stand' if far > 1 else ' stands'} far out" if far else ""
            sentence = f"No coordinate is dead; about {rank} of {rows.shape[1]} directions are really used{extra}."
            level = "good"
        return Finding(
            sentence,
            level,
            tuple(figures),
            tuple(drawings),
            "A low rank is no fault when the pairs are few or alike. Outlying coordinates are common in trained "
            "towers; they matter when vectors are quantised or compared coordinate by coordinate.",
            "tether-lab reproduce positional-artefacts; tether-lab reproduce w-clip",
        )


def _outliers(rows: Tensor, *, z: float) -> list[int]:
    if rows.shape[1] < LEAST_DIMS:
        return []
    return np.asarray(outlier_dims([rows.numpy()], z=z).dims).tolist()


def _list(places: list[int]) -> str:
    shown = ", ".join(map(str, places[:_NAMED]))
    return shown if len(places) <= _NAMED else f"{shown} and {len(places) - _NAMED} more"
