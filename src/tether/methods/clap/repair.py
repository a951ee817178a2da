"""A network that learns from normal images to make good what was blurred: it cannot make good what it never saw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.ranges import Count, Inner, PositiveRate, Whole, checked
from tether.core.types import Batch, Loss
from tether.methods.clap.contrast import quantile_mask
from tether.methods.clap.inpaint_net import InpaintNet
from tether.methods.clap.msgms import msgms
from tether.methods.clap.padding import mirrored
from tether.training.tensor_batches import TensorBatches
from tether.training.tuning import Tuning, play

_BLOBS = 4
"""Rows and columns of random numbers that random masks are made of."""


@checked
def mosaic(
    image: Float[Tensor, "b c h w"], mask: Bool[Tensor, "b 1 h w"], *, block: Count = 4
) -> Float[Tensor, "b c h w"]:
    """Images whose pixels under a mask are the mean of their block.

    Source: CLAP (arXiv 2411.07546), as the authors' EAR. Sides that the block does not divide are mirrored and cut.

    Args:
        image: of any number of channels.
        mask: True where it is blurred.
        block: side of a block in pixels.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> import torch
        >>> from tether.methods.clap.repair import mosaic
        >>> image = torch.arange(4.0).expand(1, 1, 1, 4)
        >>> mosaic(image, torch.tensor([True, True, False, True]).expand(1, 1, 1, 4), block=2).flatten().tolist()
        [0.5, 0.5, 2.0, 2.5]
    """
    if image.ndim != 4 or 0 in image.shape or mask.shape != (len(image), 1, *image.shape[2:]):
        raise InputError(
            f"mask: expected (b, 1, h, w) for images (b, c, h, w), got {tuple(mask.shape)} for {tuple(image.shape)}"
        )
    if mask.dtype != torch.bool:
        raise InputError(f"mask: expected bool, got {mask.dtype}")
    means = F.avg_pool2d(mirrored(image, multiple=block), block)
    spread = means.repeat_interleave(block, dim=2).repeat_interleave(block, dim=3)
    return torch.where(mask, spread[:, :, : image.shape[2], : image.shape[3]], image)


@checked
def learn_repair(
    images: Sequence[Float[Tensor, "3 h w"]],
    attention: Sequence[Float[Tensor, "r c"]],
    *,
    quantile: Inner = 0.9,
    block: Count = 4,
    crop: Count = 32,
    steps: Count = 300,
    batch_size: Count = 8,
    learning_rate: PositiveRate = 2e-3,
    seed: Whole = 0,
    device: torch.device | str = "cpu",
) -> InpaintNet:
    """Train a network on parts of images without defects; the same images in the same order give the same network.

    Half of the parts are blurred where the image's attention is high, half in random blobs of the same area. The loss
    is the squared error and the difference of edges (``msgms``).

    Source: CLAP (arXiv 2411.07546); the masks, the weights of the two losses and the network are our definition.

    Args:
        images: from 0 to 1, of any sizes.
        attention: of each.
        quantile: see ``quantile_mask``.
        block: see ``mosaic``.
        crop: side of the parts in pixels, at most the image's own.
        steps: of Adam; the rate falls to 0 as a cosine.
        batch_size: parts in a step.
        learning_rate: of the first step.
        seed: of the network's first weights, the parts and the blobs.
        device: where it is trained.

    Returns:
        In eval mode.

    Raises:
        InputError: not one image, or another number of maps.
    """
    if not images or len(images) != len(attention):
        raise InputError(f"images: expected one at least and a map of each, got {len(images)} and {len(attention)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = InpaintNet().to(device)
    numbers = torch.arange(len(images)).repeat(-(-batch_size // len(images)))
    tuning = Tuning[None](
        step=_RepairStep(net, images, attention, quantile=quantile, block=block, crop=crop, seed=seed),
        batches=TensorBatches({"image": numbers}, batch_size=batch_size, seed=seed),
        steps=steps,
        optimizer={"name": "adamw", "lr": learning_rate},
        training=[net],
    )
    play(tuning, net, seed=seed)
    return net.eval().requires_grad_(False)


class _RepairStep:
    """The loss of some images, by parts and masks that depend on seed and step alone; a ``core.protocols.Step``."""

    def __init__(
        self,
        net: InpaintNet,
        images: Sequence[Tensor],
        attention: Sequence[Tensor],
        *,
        quantile: float,
        block: int,
        crop: int,
        seed: int,
    ) -> None:
        self._net, self._images = net, images
        self._masks = [
            quantile_mask(one[None], size=(image.shape[1], image.shape[2]), quantile=quantile)[0]
            for one, image in zip(attention, images, strict=True)
        ]
        self._quantile, self._block, self._seed = quantile, block, seed
        self._crop = min(crop, *(min(image.shape[1:]) for image in images))

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See Step; the model that is given is around the network."""
        generator = torch.Generator().manual_seed(hash_int(str(step), seed=self._seed, salt="repair") >> 1)
        parts, masks = zip(*(self._part(number, generator) for number in batch.image.tolist()), strict=True)
        device = next(self._net.parameters()).device
        image, mask = torch.stack(parts).to(device), torch.stack(masks).to(device)
        repaired = self._net(mosaic(image, mask, block=self._block))
        return Loss(F.mse_loss(repaired, image) + msgms(image, repaired).mean())

    def _part(self, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        image, side = self._images[number], self._crop
        top, left = (int(torch.randint(whole - side + 1, (), generator=generator)) for whole in image.shape[1:])
        cut = (slice(None), slice(top, top + side), slice(left, left + side))
        noise = torch.rand(1, _BLOBS, _BLOBS, generator=generator)
        if torch.rand((), generator=generator) < 0.5:
            return image[cut], self._masks[number][cut]
        return image[cut], quantile_mask(noise, size=(side, side), quantile=self._quantile)[0]
