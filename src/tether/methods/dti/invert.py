"""Directions of a new word learnt from any loss of its texts, and from what a diffusion makes of a few images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.ranges import Count, NonNegative, Rate, Whole, checked
from tether.generation.diffuse.text_diffusion import TextDiffusion
from tether.methods.dti.optimizer import SphericalSGD
from tether.models.texts.directional_token import DirectionalToken, NormStats, token_norm_stats

__all__ = ["DirectionalToken", "NormStats", "denoising_loss", "learn_word_", "token_norm_stats"]

WordLoss = Callable[[DirectionalToken, int], Tensor]
"""The token and the number of the step to a scalar with gradient."""
TEMPLATES = ("a {}", "a photo of a {}", "a close-up of a {}", "a picture of a {}")


@checked
def learn_word_(
    token: DirectionalToken,
    loss: WordLoss,
    *,
    steps: Count = 400,
    lr: Rate = 0.01,
    kappa: NonNegative = 1e-4,
    first: Whole = 0,
) -> tuple[float, ...]:
    """Move the directions of a new word to lower a loss, in place; the defaults are the paper's for SDXL.

    For a loss of one's own, such as a diffusion's. ``tether.adapt``'s recipe ``new-word`` has the same rule for the
    encoder's own loss, in the loop of all recipes, whose optimisers are those of ``train`` alone.

    Args:
        token: that learns.
        loss: of the token and the number of the step: ``denoising_loss``, or one of the encoder's own.
        steps: to take.
        lr: radians of each.
        kappa: pull toward the first word.
        first: number of the first step, where others went before.

    Returns:
        The loss of each step.

    Raises:
        InputError: a loss that is not finite; the directions are those of the step before.

    Source: DTI (arXiv 2512.13672; kunheek/dti).

    Example:
        >>> from tether.methods.dti import DirectionalToken, learn_word_
        >>> from tether.models import create
        >>> model = create("tiny").eval()
        >>> token, wanted = DirectionalToken(model, "cup", word="<mug>"), model.embed("a dog")[0]
        >>> losses = learn_word_(token, lambda one, _: -(one.encode(["a <mug>"]).unit @ wanted).sum(), steps=5)
        >>> losses[-1] < losses[0], round(float(token.direction.detach().norm()), 4)
        (True, 1.0)
    """
    optimizer, losses = SphericalSGD([token.direction], lr=lr, kappa=kappa, target=token.start), list[float]()
    for step in range(first, first + steps):
        value = loss(token, step)
        if not bool(value.detach().isfinite()):
            raise InputError(f"loss: step {step}: expected a finite number, got {float(value.detach())}")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    optimizer.zero_grad(set_to_none=True)
    return tuple(losses)


@checked
def denoising_loss(
    diffusion: TextDiffusion,
    images: Float[Tensor, "n 3 h w"],
    *,
    templates: Sequence[str] = TEMPLATES,
    batch_size: Count = 4,
    seed: Whole = 0,
) -> WordLoss:
    """The loss of a diffusion at rest on a few images of one thing, whose texts have the new word: the paper's own.

    Args:
        diffusion: trained with the encoder that the token is of.
        images: of the thing, in -1 to 1, of the diffusion's size.
        templates: texts with ``{}`` where the word goes, one of which is drawn for each image.
        batch_size: images of a step, drawn with replacement.
        seed: of all draws; each step has its own.

    Raises:
        InputError: no images, images of another size, or a template without ``{}``.

    Example:
        >>> import torch
        >>> from tether.methods.dti import DirectionalToken, denoising_loss, learn_word_
        >>> from tether.generation import TextDiffusion
        >>> from tether.models import create
        >>> model = create("tiny").eval()
        >>> diffusion = TextDiffusion(model, size=8, channels=(8, 16)).eval()
        >>> token = DirectionalToken(model, "cup", word="<mug>")
        >>> len(learn_word_(token, denoising_loss(diffusion, torch.zeros(4, 3, 8, 8)), steps=2))
        2
    """
    diffusion.check_images(images, [""] * max(1, len(images)))
    if bad := [one for one in templates if "{}" not in one] or ([] if templates else ["nothing"]):
        raise InputError(f"templates: expected texts with {{}} where the word goes, got {bad[0]!r:.200}")

    def loss(token: DirectionalToken, step: int) -> Tensor:
        draw = torch.Generator().manual_seed(hash_int(str(step), seed=seed, salt="denoising a word") >> 1)
        rows = torch.randint(len(images), (batch_size,), generator=draw)
        which = torch.randint(len(templates), (batch_size,), generator=draw).tolist()
        texts = [templates[one].replace("{}", token.word) for one in which]
        resting = [value for value in diffusion.unet.parameters() if value.requires_grad]
        for value in resting:
            value.requires_grad_(False)
        try:
            return diffusion.loss(images[rows], texts, generator=draw, read=token.encode)
        finally:
            for value in resting:
                value.requires_grad_(True)

    return loss
