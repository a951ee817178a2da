"""SPECS: a score for long captions, and how often it rises with a true detail and falls with a false one."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.evaluate.checks import checked_pair, checked_rows


@checked
def specs_score(
    img: Float[Tensor, "n d"], txt: Float[Tensor, "m d"], *, pairs: Literal["rows", "all"] = "rows"
) -> Float[Tensor, " n"] | Float[Tensor, "n m"]:
    """``max(0, (cosine + 1) / 2)``, in [0, 1]: the cosine on another scale, for a model that was fine-tuned for it.

    Source: arXiv 2509.03897, released code. Numbers do not compare with CLIPScore's, nor between models.

    Args:
        img: embeddings of any length.
        txt: embeddings of any length.
        pairs: ``rows`` scores row i with row i, ``all`` every image with every caption.
    """
    img, txt = checked_pair(img, txt, paired="SPECS" if pairs == "rows" else "")
    img, txt = F.normalize(img, dim=1), F.normalize(txt, dim=1)
    cosine = (img * txt).sum(dim=1) if pairs == "rows" else img @ txt.T
    return ((cosine + 1) / 2).clamp_min(0)


@dataclass(frozen=True, slots=True)
class IncrementRates:
    """How a score follows growing captions; rates are shares in [0, 1], NaN where no image has steps enough.

    Attributes:
        positive: mean fraction of steps at which one more true detail raised the score.
        negative: mean fraction of steps at which a false detail instead scored lower.
        images: (k,) rows of the images counted.
        each_positive: (k,) fraction of each of them.
        each_negative: (k,) fraction of each of them.
    """

    positive: float
    negative: float
    images: Int[Tensor, " k"]
    each_positive: Float[Tensor, " k"]
    each_negative: Float[Tensor, " k"]


def increment_rates(
    sim: Float[Tensor, "n t"], *, neg_sim: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"]
) -> IncrementRates:
    """How often the score goes the right way as captions grow.

    An image with ``v`` captions has ``v - 1`` steps, and is counted if they are at least two. Ties count against.
    The release takes scores above 0 for real ones and would lose a negative cosine; here a mask says which are.

    Source: arXiv 2509.03897, released code (``compute_increments``).

    Args:
        sim: score of each image's caption of 1, 2, 3... details; entries outside the mask are ignored.
        neg_sim: score of the same captions with a false detail at their end.
        mask: True for captions that there are, the first ones of each row.

    Raises:
        InputError: unequal shapes, a mask with holes, or a score within the mask that is not finite.
    """
    if sim.ndim != 2 or sim.shape != neg_sim.shape or sim.shape != mask.shape or mask.dtype != torch.bool:
        raise InputError(
            f"increments: expected three (n, t), the mask of booleans, got {tuple(sim.shape)}, "
            f"{tuple(neg_sim.shape)} and {mask.dtype} {tuple(mask.shape)}"
        )
    if (mask[:, 1:] & ~mask[:, :-1]).any():
        row = int((mask[:, 1:] & ~mask[:, :-1]).any(dim=1).nonzero()[0])
        raise InputError(f"mask: expected the first captions of each row, row {row} has a hole")
    for name, scores in (("sim", sim), ("neg_sim", neg_sim)):
        checked_rows(torch.where(mask, scores, 0.0), name=name, least=0)
    steps = mask.sum(dim=1) - 1
    images = (steps > 1).nonzero().flatten()
    taken = mask[images, 1:]  # step i leads from caption i to i + 1, and asks of the false one beside caption i
    count = taken.sum(dim=1).double()
    grew = (sim[images, 1:] > sim[images, :-1]) & taken
    fell = (sim[images, :-1] > neg_sim[images, :-1]) & taken
    each_positive, each_negative = grew.sum(dim=1) / count, fell.sum(dim=1) / count
    if len(images) == 0:
        warnings.warn("increments: no image has three captions or more, the rates are NaN", stacklevel=2)
        return IncrementRates(math.nan, math.nan, images, each_positive, each_negative)
    return IncrementRates(
        each_positive.mean().item(), each_negative.mean().item(), images, each_positive, each_negative
    )


class SpecsScore(Metric):
    """Mean ``specs_score`` of images and their captions, over all batches and processes."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self.add_state("total", default=torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, img: Float[Tensor, "b d"], txt: Float[Tensor, "b d"]) -> None:
        """Add one batch of pairs; errors are those of ``specs_score``."""
        score = specs_score(img.detach(), txt.detach())
        self.total = self.total + score.sum()
        self.count = self.count + len(score)

    def compute(self) -> Tensor:
        """The mean so far."""
        if int(self.count) == 0:
            raise InputError("SPECS: no batch has been added")
        return self.total / self.count


class SpecsIncrements(Metric):
    """``increment_rates`` of all batches and processes; those may have captions of different numbers of steps."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    positive: list[Tensor]
    negative: list[Tensor]

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        for name in ("positive", "negative"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, sim: Float[Tensor, "b t"], neg_sim: Float[Tensor, "b t"], mask: Bool[Tensor, "b t"]) -> None:
        """Add one batch of images; arguments and errors are those of ``increment_rates``."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one batch may well have no long caption
            found = increment_rates(sim.detach(), neg_sim=neg_sim.detach(), mask=mask)
        self.positive.append(found.each_positive)
        self.negative.append(found.each_negative)

    def compute(self) -> dict[str, float]:
        """``positive`` and ``negative``, NaN where no image had steps enough."""
        if not len(self.positive):
            raise InputError("SPECS increments: no batch has been added")
        return {name: dim_zero_cat(getattr(self, name)).mean().item() for name in ("positive", "negative")}
