"""A field of places made to show an image, so that what its weights are moved by later does it little harm."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from tether.core.errors import InputError, NotFiniteError
from tether.core.ranges import Count, NonNegative, PositiveRate, Whole, checked
from tether.generation.canvases.implicit import FinerField, pixel_middles

Blur = Annotated[float, Ge(0), Le(1_000)]


@contextmanager
def perturbed(
    weights: Sequence[nn.Parameter], grads: Sequence[Tensor], *, gamma: NonNegative
) -> Generator[tuple[Tensor, ...]]:
    """Weights a step up their gradient, each by ``gamma`` of its own length; afterwards they are as they were.

    Adversarial weight perturbation: gamma ||W|| g / ||g||; a weight whose gradient is zero stays where it is. What it
    was is kept and put back, also after an error, not taken off again, so not a bit is lost.

    Args:
        weights: that are moved in place.
        grads: of each.
        gamma: share of a weight's length.

    Yields:
        What was added to each.

    Source: Implicit Inversion (arXiv 2505.23161) after Wu et al. (arXiv 2004.05884).

    Example:
        >>> import torch
        >>> from tether.generation.inversion.field_fit import perturbed
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> with perturbed([weight], [torch.tensor([1.0, 0.0])], gamma=0.1):
        ...     print(weight.tolist())
        [3.5, 4.0]
        >>> weight.tolist()
        [3.0, 4.0]
    """
    kept = [weight.detach().clone() for weight in weights]
    lengths = [torch.linalg.vector_norm(grad) for grad in grads]
    added = tuple(
        gamma * torch.linalg.vector_norm(weight) * grad / length.clamp(min=torch.finfo(length.dtype).tiny)
        for weight, grad, length in zip(kept, grads, lengths, strict=True)
    )
    try:
        with torch.no_grad():
            for weight, more in zip(weights, added, strict=True):
                weight.add_(more)
        yield added
    finally:
        with torch.no_grad():
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(before)


def adversarial_gradients(
    loss: Callable[[], Tensor], moving: Sequence[nn.Parameter], *, weights: Sequence[nn.Parameter], gamma: float
) -> tuple[Tensor, list[Tensor]]:
    """A loss and its gradients at weights that were moved against it, each by ``gamma`` of its length.

    How far a weight is moved follows its length, and the gradient follows that; the way it is moved is held fixed.

    Args:
        loss: computed anew at each call.
        moving: parameters to give gradients of.
        weights: those of them that are moved.
        gamma: share of a weight's length; with 0 it is the plain gradient.

    Returns:
        The loss at the moved weights, and a gradient of each of ``moving``; the weights are as they were.

    Source: Implicit Inversion (arXiv 2505.23161); that the gradient follows the length is a transcription's.

    Example:
        >>> import torch
        >>> from tether.generation.inversion.field_fit import adversarial_gradients
        >>> weight = torch.nn.Parameter(torch.tensor([2.0]))
        >>> value, (grad,) = adversarial_gradients(lambda: weight.square().sum(), [weight], weights=[weight], gamma=0.5)
        >>> value.item(), grad.item()  # (1.5 w)^2 and 2 * 1.5 w * 1.5 at w = 2
        (9.0, 9.0)
    """
    if not gamma:
        value = loss()
        return value.detach(), list(torch.autograd.grad(value, moving))
    first = torch.autograd.grad(loss(), weights)
    with perturbed(weights, first, gamma=gamma) as added:
        value = loss()
        grads = list(torch.autograd.grad(value, moving))
    place = {id(one): number for number, one in enumerate(moving)}
    for weight, more in zip(weights, added, strict=True):
        number, square = place[id(weight)], weight.detach().square().sum()
        if bool(square):
            grads[number] = grads[number] + (more * grads[number]).sum() / square * weight.detach()
    return value.detach(), grads


@checked
def fit_field(
    image: Float[Tensor, "3 h w"],
    *,
    field: FinerField | None = None,
    gamma: NonNegative = 0.0,
    steps: Count = 300,
    blur: Blur = 0.0,
    lr: PositiveRate = 1e-3,
    points: Count | None = None,
    seed: Whole = 0,
) -> FinerField:
    """Make a field show an image: Adam on the mean square of what is missing, all layers at once.

    With ``gamma`` the gradient of each step is that at weights that were moved against it
    (``adversarial_gradients``), so that the field comes to lie where a change of its weights changes the image little.

    Args:
        image: in 0 to 1, blurred first where ``blur`` says so.
        field: moved in place; None takes a new one of the image's side.
        gamma: share of each weight's length; 0 fits as usual.
        steps: of Adam.
        blur: standard deviation in pixels.
        lr: of all layers.
        points: places of a step, drawn evenly anew in each, between pixels too; None takes all pixels.
        seed: of the places.

    Returns:
        The field.

    Raises:
        InputError: no image of three channels, values beyond 0 to 1, or no field for one that is not square.
        NotFiniteError: a loss without a number; the field is that of the step before.

    Source: Implicit Inversion (arXiv 2505.23161); ``points`` and the defaults are ours.

    Example:
        >>> import torch
        >>> from tether.generation import fit_field
        >>> image = torch.ones(3, 16, 16) * torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
        >>> fit_field(image, steps=60, lr=0.01).render().mean(dim=(1, 2)).round().tolist()
        [1.0, 0.0, 0.0]
    """
    if image.ndim != 3 or len(image) != 3 or not image.numel():
        raise InputError(f"image: expected (3, h, w), got {tuple(image.shape)}")
    if not bool((image >= 0).all() & (image <= 1).all()):
        raise InputError("image: expected values from 0 to 1")
    if field is None:
        if image.shape[1] != image.shape[2]:
            raise InputError(f"field: expected one for an image that is not square, {tuple(image.shape)}")
        field = FinerField(size=image.shape[1])
    weights = [next(linear.parameters()) for linear in field.linears]
    wanted = image.detach().to(weights[0])
    wanted = blurred(wanted, blur)
    every = pixel_middles(wanted.shape[1], wanted.shape[2]).to(wanted)
    moving = list(field.parameters())
    optimizer = torch.optim.Adam(moving, lr=lr)
    draws = torch.Generator().manual_seed(seed)
    for step in range(steps):
        if points is None:
            coords, colors = every, wanted.flatten(1).T
        else:
            coords = (2 * torch.rand(points, 2, generator=draws) - 1).to(wanted)
            seen = F.grid_sample(wanted[None], coords[None, None], padding_mode="border", align_corners=False)
            colors = seen[0, :, 0].T

        def missing(coords: Tensor = coords, colors: Tensor = colors) -> Tensor:
            return F.mse_loss(field.colors(coords), colors)

        loss, grads = adversarial_gradients(missing, moving, weights=weights, gamma=gamma)
        if not bool(loss.isfinite()) or not all(bool(grad.isfinite().all()) for grad in grads):
            raise NotFiniteError(f"step {step}: expected a finite loss and gradient, got {float(loss):g}")
        for value, grad in zip(moving, grads, strict=True):
            value.grad = grad
        optimizer.step()
    optimizer.zero_grad()
    return field


def blurred(image: Float[Tensor, "3 h w"], blur: float) -> Float[Tensor, "3 h w"]:
    """An image under a bell of that standard deviation in pixels, mirrored at its border; 0 leaves it as it is."""
    if not blur:
        return image
    wide = [min(2 * max(1, round(3 * blur)) + 1, 2 * ((side - 1) // 2) + 1) for side in image.shape[:0:-1]]
    return gaussian_blur(image, wide, [blur, blur])
