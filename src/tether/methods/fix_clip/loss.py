"""FIX-CLIP's losses: long and short captions, and layers of both towers aligned in groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import Count, NonNegative, Positive, checked
from tether.core.types import Batch, Encoded, Features, Loss
from tether.losses.checks import check_cosine, unit_rows
from tether.losses.clip import clip_loss
from tether.losses.long_clip import SHORT_TEXT, extra_rows

MASKED_IMAGE = "masked_image"
"""Where a batch's extra holds the embeddings of the images of which most patches are hidden."""
GROUPS = ("image_groups", "text_groups")
"""Where it holds (G, b, d) the features of the groups of layers, if there are any."""


def group_weights(size: int, *, sigma: float = 1.0, normalise: bool = True) -> Float[Tensor, " s"]:
    """What each layer of a group counts: a Gaussian around its last one, float64."""
    found = torch.exp(-(torch.arange(1 - size, 1, dtype=torch.float64) ** 2) / (2 * sigma**2))
    return found / found.sum() if normalise else found


@checked
def group_token_aggregate(
    layers: Float[Tensor, "l b d"], *, groups: Count = 3, sigma: Positive = 1.0, normalise: bool = True
) -> Float[Tensor, "g b d"]:
    """One feature for each group of layers, the later ones weighing more (arXiv 2507.10095, section 3.4).

    Args:
        layers: the state of the class or end token after each block, before any norm.
        groups: of equally many layers, in order; must divide their number.
        sigma: of the Gaussian around a group's last layer.
        normalise: whether its weights add up to 1; the paper does not say.

    Raises:
        InputError: groups of unequal size.

    Example:
        >>> import torch
        >>> from tether.methods.fix_clip.loss import group_token_aggregate
        >>> layers = torch.arange(6.0).view(6, 1, 1)
        >>> [round(value, 2) for value in group_token_aggregate(layers, groups=3).flatten().tolist()]
        [0.62, 2.62, 4.62]
    """
    if not len(layers) or len(layers) % groups:
        raise InputError(f"groups: expected a divisor of the {len(layers)} layers, got {groups}")
    size = len(layers) // groups
    weights = group_weights(size, sigma=sigma, normalise=normalise).to(layers)
    return torch.einsum("s,gsbd->gbd", weights, layers.unflatten(0, (groups, size)))


class GroupHeads(nn.Module):
    """A linear layer and a norm for each group of one tower's layers, into the space where groups are compared."""

    @checked
    def __init__(
        self,
        *,
        width: Count,
        dim: Count,
        groups: Count = 3,
        sigma: Positive = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the weights, normal with standard deviation ``width ** -0.5``.

        Args:
            width: of the tower.
            dim: of the space.
            groups: of layers.
            sigma: see ``group_token_aggregate``.
            generator: of the draws; torch's own if None.
        """
        super().__init__()
        self.groups, self.sigma = groups, sigma
        self.maps = nn.ModuleList(nn.Linear(width, dim) for _ in range(groups))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(groups))
        for layer in self.maps.children():
            nn.init.normal_(layer.get_parameter("weight"), std=width**-0.5, generator=generator)
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, layers: Float[Tensor, "l b w"]) -> Float[Tensor, "g b d"]:
        """The features of the groups, from the states of the token that is read after each block."""
        grouped = group_token_aggregate(layers, groups=self.groups, sigma=self.sigma)
        return torch.stack(
            [norm(layer(rows)) for rows, layer, norm in zip(grouped, self.maps, self.norms, strict=True)]
        )


@dataclass(frozen=True, slots=True)
class FixClipTerms:
    """What ``fix_clip_loss`` gives.

    Attributes:
        total: 0-d, the sum of ``long``, ``short`` and each group's loss from ``first_group`` on with its weight.
        long: 0-d, of whole images and long captions.
        short: 0-d, of images with hidden patches and short captions.
        groups: (G,) of each group's features, also of those that are left out of the total.
    """

    total: Float[Tensor, ""]
    long: Float[Tensor, ""]
    short: Float[Tensor, ""]
    groups: Float[Tensor, " g"]


@checked
def fix_clip_loss(
    img: Float[Tensor, "b d"],
    masked_img: Float[Tensor, "b d"],
    long_txt: Float[Tensor, "b d"],
    short_txt: Float[Tensor, "b d"],
    logit_scale: Float[Tensor, ""] | float,
    *,
    img_groups: Float[Tensor, "g b e"] | None = None,
    txt_groups: Float[Tensor, "g b e"] | None = None,
    first_group: Count = 2,
    omega: NonNegative | Sequence[NonNegative] = 0.1,
    gather: Gather | None = None,
) -> FixClipTerms:
    """CLIP's loss of three kinds of pairs (arXiv 2507.10095, section 3).

    Args:
        img: of whole images; row i of all belongs together. Rows of these four have length 1.
        masked_img: of the same with most patches hidden.
        long_txt: of long captions.
        short_txt: of short ones.
        logit_scale: multiplier of the cosines, already exponentiated.
        img_groups: features of groups of layers, as ``GroupHeads`` gives them, of any length; None for none.
        txt_groups: the same of the long captions.
        first_group: the first group that counts, from 1; those before it are too shallow.
        omega: weight of the groups, one for all or one each.
        gather: rows of all processes; None for this process alone.

    Raises:
        InputError: groups of one side alone, a first group that there is not, or another number of weights.

    Example:
        >>> import torch
        >>> from tether.methods.fix_clip import fix_clip_loss
        >>> image, masked, long, short = torch.nn.functional.normalize(torch.randn(4, 6, 8), dim=-1)
        >>> found = fix_clip_loss(image, masked, long, short, 10.0)
        >>> bool(found.total == found.long + found.short), len(found.groups)
        (True, 0)
    """
    long = clip_loss(img, long_txt, logit_scale, gather=gather)
    short = clip_loss(masked_img, short_txt, logit_scale, gather=gather)
    if img_groups is None or txt_groups is None:
        if img_groups is not txt_groups:
            raise InputError("img_groups, txt_groups: expected both or none")
        return FixClipTerms(long + short, long, short, long.new_zeros(0))
    count = len(img_groups)
    if len(txt_groups) != count or not 1 <= first_group <= count:
        raise InputError(
            f"first_group: expected 1 to {count}, as many groups of texts, got {first_group} and {len(txt_groups)}"
        )
    weights = [float(omega)] * count if isinstance(omega, (int, float)) else [float(one) for one in omega]
    if len(weights) != count:
        raise InputError(f"omega: expected a weight for each of {count} groups, got {len(weights)}")
    pairs = zip(img_groups, txt_groups, strict=True)
    units = [(unit_rows(Features(image)), unit_rows(Features(text))) for image, text in pairs]
    losses = [clip_loss(image, text, logit_scale, gather=gather) for image, text in units]
    total = long + short
    for weight, loss in list(zip(weights, losses, strict=True))[first_group - 1 :]:
        total = total + weight * loss
    return FixClipTerms(total, long, short, torch.stack([loss.reshape(()) for loss in losses]))


@final
class FixClipLoss:
    """FIX-CLIP's objective, for a step that sees an image whole and masked, and a long and a short caption.

    The pair of the objective are whole images and long captions. ``batch.extra`` has the embeddings of the others,
    ``masked_image`` and ``short_text`` (b, d), which the term's ``extra: {masked_image: VIEW, ...}`` takes from views.
    Where it has ``image_groups`` and ``text_groups`` (G, b, e), as ``GroupHeads`` gives them, these are
    aligned, too.

    Source: arXiv 2507.10095, section 3; no code is released, and weights and groups are not published.
    """

    @checked
    def __init__(self, *, first_group: Count = 2, omega: NonNegative | tuple[NonNegative, ...] = 0.1) -> None:
        """Take the settings.

        Args:
            first_group: the first group of layers that counts, from 1.
            omega: weight of the groups, one for all or one each.
        """
        self.first_group, self.omega = first_group, omega

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """The loss of this process's pairs; terms are its parts and the logit scale.

        Raises:
            InputError: no embeddings of masked images or short captions, or rows that do not fit.
        """
        check_cosine(out)
        image, text = unit_rows(out.image), unit_rows(out.text)
        masked, short = (
            extra_rows(batch, name, like=image, objective="fix_clip") for name in (MASKED_IMAGE, SHORT_TEXT)
        )
        groups = [found if isinstance(found := batch.extra.get(name), Tensor) else None for name in GROUPS]
        found = fix_clip_loss(
            image,
            masked,
            text,
            short,
            out.logit_scale,
            img_groups=groups[0],
            txt_groups=groups[1],
            first_group=self.first_group,
            omega=self.omega,
            gather=gather,
        )
        terms = {"long": found.long, "short": found.short, "logit_scale": out.logit_scale}
        terms |= {f"group_{number}": loss for number, loss in enumerate(found.groups, start=1)}
        return Loss(found.total, {name: term.detach() for name, term in terms.items()})
