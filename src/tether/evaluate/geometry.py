"""The shape of a joint embedding space: gap, separability, alignment, uniformity, effective rank."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tether.core import uniformity as potential
from tether.core.errors import InputError
from tether.core.ranges import Inner, checked
from tether.core.uniformity import BLOCK_ROWS
from tether.evaluate.checks import checked_pair, checked_rows

Gap = Literal["distance", "squared", "mean_squared"]
_MOST_ITERATIONS = 1000  # of the logistic regression; its own limit of 100 can be too few for raw embeddings


def gap_vector(image: Float[Tensor, "n d"], text: Float[Tensor, "m d"]) -> Float[Tensor, " d"]:
    """Mean image embedding minus mean text embedding (arXiv 2203.02053, section 2)."""
    image, text = checked_pair(image, text)
    return image.mean(dim=0) - text.mean(dim=0)


@checked
def modality_gap(
    image: Float[Tensor, "n d"], text: Float[Tensor, "m d"], *, variant: Gap = "distance"
) -> Float[Tensor, ""]:
    """How far the centre of the images lies from the centre of the texts; papers report three forms of it.

    Args:
        image: (n, d) embeddings, usually normalised.
        text: (m, d) embeddings.
        variant: ``distance`` is the length of the gap vector (arXiv 2203.02053), ``squared`` its square,
            ``mean_squared`` its square divided by d, the form of a mean squared error.
    """
    difference = gap_vector(image, text)
    if variant == "distance":
        return torch.linalg.vector_norm(difference)
    return difference.square().sum() if variant == "squared" else difference.square().mean()


def alignment(image: Float[Tensor, "n d"], text: Float[Tensor, "n d"], *, alpha: float = 2.0) -> Float[Tensor, ""]:
    """Mean distance within a pair, to the power ``alpha``; lower is better (arXiv 2005.10242, section 4.1)."""
    image, text = checked_pair(image, text, paired="alignment")
    return torch.linalg.vector_norm(image - text, dim=1).pow(alpha).mean()


def relative_alignment(image: Float[Tensor, "n d"], text: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean over texts of the squared distance to their own image minus that to the nearest other; lower is better.

    Below 0 where the own image is the nearest one. Distances come from blocks of matrix products. Source: arXiv
    2203.03897, section 3, in the released form, where the text asks.
    """
    image, text = checked_pair(image, text, paired="relative alignment", least=2)
    own = (image - text).square().sum(dim=1)
    nearest = []
    for start in range(0, len(text), BLOCK_ROWS):
        block = text[start : start + BLOCK_ROWS]
        distance = block.square().sum(dim=1)[:, None] + image.square().sum(dim=1) - 2 * block @ image.T
        places = torch.arange(len(block), device=image.device)
        distance = distance.index_put((places, places + start), distance.new_tensor(torch.inf))
        nearest.append(distance.clamp_min(0).amin(dim=1))
    return (own - torch.cat(nearest)).mean()


def uniformity(rows: Float[Tensor, "n d"], *, t: float = 2.0) -> Float[Tensor, ""]:
    """Log of the mean Gaussian potential of all distinct pairs; lower is more even (arXiv 2005.10242, section 4.1).

    Distances come from blocks of matrix products, so memory grows with n and not with n squared.
    """
    return potential.uniformity(checked_rows(rows, name="rows", least=2), t=t)


def joint_uniformity(image: Float[Tensor, "n d"], text: Float[Tensor, "m d"], *, t: float = 2.0) -> Float[Tensor, ""]:
    """Uniformity of both sides as one set of n + m rows (arXiv 2203.03897, section 3); lower is more even.

    The released code puts the images together with themselves; this is the paper's form.
    """
    image, text = checked_pair(image, text)
    return potential.uniformity(torch.cat([image, text]), t=t)


def cross_uniformity(image: Float[Tensor, "n d"], text: Float[Tensor, "n d"], *, t: float = 2.0) -> Float[Tensor, ""]:
    """Log of the mean Gaussian potential between images and the texts of others (arXiv 2405.18570, section 5).

    Lower is farther apart, which two opposite clusters satisfy as well as an even spread.
    """
    image, text = checked_pair(image, text, paired="cross-uniformity", least=2)
    return potential.cross_uniformity(image, text, t=t)


@checked
def linear_separability(
    image: Float[Tensor, "n d"], text: Float[Tensor, "n d"], *, train_share: Inner = 0.8, seed: int = 0
) -> float:
    """How often a linear classifier tells an image from a text, on pairs it was not fitted on.

    0.5 is chance: no gap; 1.0 means that a hyperplane parts the two sides. scikit-learn's logistic regression with its
    default penalty. Source: arXiv 2405.18570, section 3; the released code.

    Args:
        image: embeddings, usually normalised.
        text: row i is the partner of ``image[i]``; partners fall on the same side of the split.
        train_share: of the pairs; at least one pair is fitted on and one is left.
        seed: of the split.
    """
    from sklearn.linear_model import LogisticRegression

    image, text = checked_pair(image, text, paired="linear separability", least=2)
    count = len(image)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    cut = min(max(round(train_share * count), 1), count - 1)
    sides = [side.detach().cpu().numpy()[order.numpy()] for side in (image, text)]
    fitted = LogisticRegression(max_iter=_MOST_ITERATIONS).fit(
        np.concatenate([side[:cut] for side in sides]), np.repeat([0, 1], cut)
    )
    held_out = np.concatenate([side[cut:] for side in sides])
    return float(fitted.score(held_out, np.repeat([0, 1], count - cut)))


def effective_rank(rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """How many directions the rows really use: the exponential of the entropy of their singular values.

    Between 1 (all on one line) and min(n, d) (Roy and Vetterli 2007; RankMe, arXiv 2210.02885, section 3). The mean
    is left in, as there.
    """
    rows = checked_rows(rows, name="rows").double()
    values = torch.linalg.svdvals(rows) if len(rows) < rows.shape[1] else _singular_values(rows)
    total = values.sum()
    if not total > 0:
        raise InputError("effective rank: every row is zero")
    share = values / total
    return torch.exp(torch.special.entr(share).sum())


def _singular_values(rows: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """From the R factor: d x d once n rows are folded in, at full precision."""
    return torch.linalg.svdvals(torch.linalg.qr(rows, mode="r").R)
