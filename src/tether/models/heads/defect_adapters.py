"""Small layers on frozen features that find defects: features moved, and patches compared with those of good images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.models.towers.config import Layers

TOP = 10
"""Places of a channel whose largest values are pooled beside its mean."""
_MOST = 1 << 24
"""Cosines that are held at once, 64 MB."""


class ResidualAdapter(nn.Module):
    """``x + W2 relu(BN(W1 x))`` of each row, with a narrow middle and no bias.

    Source: AdaptCLIP (arXiv 2505.09926), section 3.3, and its released code. In training mode the norm mixes rows, so
    that an image's answer depends on the others of the batch; in eval mode it does not.

    Example:
        >>> import torch
        >>> from tether.models.heads.defect_adapters import ResidualAdapter
        >>> ResidualAdapter(64).eval()(torch.ones(2, 9, 64)).shape
        torch.Size([2, 9, 64])
    """

    @checked
    def __init__(self, dim: Count, *, reduction: Count = 4) -> None:
        """Draw the weights, as torch does.

        Args:
            dim: length of the rows.
            reduction: of it in the middle.

        Raises:
            InputError: nothing is left in the middle.
        """
        super().__init__()
        if dim < reduction:
            raise InputError(f"reduction: expected at most {dim}, the length of the rows, got {reduction}")
        self.down = nn.Linear(dim, dim // reduction, bias=False)
        self.norm = nn.BatchNorm1d(dim // reduction)
        self.up = nn.Linear(dim // reduction, dim, bias=False)

    def forward(self, rows: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Move rows.

        Args:
            rows: not normalised; in training mode two or more.

        Raises:
            InputError: one row in training mode.
        """
        flat = rows.reshape(-1, rows.shape[-1])
        _check_several(self, len(flat))
        return (flat + self.up(F.relu(self.norm(self.down(flat))))).view(rows.shape)


class VisualAdapter(nn.Module):
    """A ``ResidualAdapter`` for whole images and another one for their patches; texts stay where they are.

    Source: AdaptCLIP (arXiv 2505.09926), section 3.3. The released code has the class token among the patches, whose
    norm then counts it, too.

    Attributes:
        whole: of images.
        patches: of the last block's patches.
    """

    @checked
    def __init__(self, dim: Count, *, reduction: Count = 4) -> None:
        """Args: dim: length of the rows. reduction: of it in the middle."""
        super().__init__()
        self.whole = ResidualAdapter(dim, reduction=reduction)
        self.patches = ResidualAdapter(dim, reduction=reduction)


def nearest_rows(
    rows: Float[Tensor, "b n d"], known: Float[Tensor, "b m d"]
) -> tuple[Int[Tensor, "b n"], Float[Tensor, "b n"]]:
    """Of each row the number of the known one with the highest cosine, the first of equal ones, and that cosine.

    A few rows are compared at a time, so that memory does not grow with both.

    Args:
        rows: of length 1.
        known: likewise, one at least.

    Example:
        >>> import torch
        >>> from tether.models.heads.defect_adapters import nearest_rows
        >>> place, cosine = nearest_rows(torch.tensor([[[0.6, 0.8]]]), torch.eye(2)[None])
        >>> place.tolist(), round(float(cosine), 3)
        ([[1]], 0.8)
    """
    step = max(1, _MOST // (known.shape[0] * known.shape[1]))
    found = [(some @ known.mT).max(dim=2) for some in rows.split(step, dim=1)]
    cosine, place = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    return place, cosine


@dataclass(frozen=True, slots=True)
class ComparedPatches:
    """What a ``PromptQueryAdapter`` says, block by block.

    Attributes:
        logits: normal and defective, of images.
        maps: probabilities of the two for each pixel.
        away: how far each pixel is from the nearest patch of good images, 1 minus the cosine; nothing of it is learnt.
    """

    logits: Float[Tensor, "layers b 2"]
    maps: Float[Tensor, "layers b 2 h w"]
    away: Float[Tensor, "layers b h w"]


class PromptQueryAdapter(nn.Module):
    """Compares each patch with the nearest patch of good images, and has learnt which differences are defects.

    Of each block the difference is ``|q - p|`` of unit rows; with ``context`` q is added to it. Each block has a
    BatchNorm of its own; the two heads behind it, of places and of whole images, are shared by all blocks, so that in
    training mode one forward moves their running statistics once for each block. Positions do not count: good images
    must show the same thing in the same view.

    Source: AdaptCLIP (arXiv 2505.09926), section 3.4, and its released code.

    Attributes:
        context: whether q is added.
        norms: of each block.
        places: from a map of differences to one of logits, four times as fine.
        whole: from the pooled map to logits. Pooled are the mean, and the mean of the ten largest of each channel,
            halves of each; of a map with fewer places all are the largest.

    Example:
        >>> import torch
        >>> from tether.models.heads.defect_adapters import PromptQueryAdapter
        >>> adapter, rows = PromptQueryAdapter(64, 2, hidden=16).eval(), torch.randn(2, 3, 9, 64)
        >>> found = adapter(rows, rows[:, :, None], grid=(3, 3), size=(48, 48))
        >>> found.logits.shape, found.maps.shape, bool(found.away.abs().max() < 1e-5)
        (torch.Size([2, 3, 2]), torch.Size([2, 3, 2, 48, 48]), True)
    """

    @checked
    def __init__(self, dim: Count, layers: Layers, *, hidden: Count = 128, context: bool = True) -> None:
        """Draw the weights, as torch does.

        Args:
            dim: length of the patches.
            layers: blocks that are compared.
            hidden: channels of the heads, then half as many.
            context: see above.

        Raises:
            InputError: one channel alone, which has no half.
        """
        super().__init__()
        if hidden < 2:
            raise InputError(f"hidden: expected 2 or more, got {hidden}")
        self.context, half = context, hidden // 2
        self.norms = nn.ModuleList(nn.BatchNorm2d(dim) for _ in range(layers))
        self.places = nn.Sequential(
            nn.Conv2d(dim, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.ConvTranspose2d(hidden, hidden, 2, stride=2),
            nn.Conv2d(hidden, half, 3, padding=1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.ConvTranspose2d(half, half, 2, stride=2),
            nn.Conv2d(half, 2, 1),
        )
        self.whole = nn.Sequential(
            nn.Linear(dim, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, half, bias=False),
            nn.BatchNorm1d(half),
            nn.ReLU(),
            nn.Linear(half, 2, bias=False),
        )

    def forward(
        self,
        query: Float[Tensor, "layers b n d"],
        prompt: Float[Tensor, "layers b k n d"],
        *,
        grid: tuple[int, int],
        size: tuple[int, int],
    ) -> ComparedPatches:
        """Compare images with k good ones each.

        Args:
            query: patches of images, block by block, row by row, of any length.
            prompt: those of their good images.
            grid: rows and columns of patches.
            size: height and width of the maps.

        Raises:
            InputError: other blocks than the adapter has, no good image or one of another grid, or one image alone in
                training mode.
        """
        want = (len(self.norms), query.shape[1], max(1, prompt.shape[2]), *query.shape[2:])
        if prompt.shape != want:
            raise InputError(
                f"prompt: expected patches {want} for {len(self.norms)} blocks, images, good ones of each, places and "
                f"channels, as the images have, got {tuple(prompt.shape)} for images {tuple(query.shape)}"
            )
        return self.against(query, F.normalize(prompt, dim=4).flatten(2, 3), grid=grid, size=size)

    def against(
        self,
        query: Float[Tensor, "layers b n d"],
        known: Float[Tensor, "layers b m d"],
        *,
        grid: tuple[int, int],
        size: tuple[int, int],
    ) -> ComparedPatches:
        """Compare images with any patches of good ones, such as a memory of them.

        Args:
            query: as ``forward`` takes it.
            known: patches of length 1, m for each image.
            grid: see ``forward``.
            size: likewise.

        Raises:
            InputError: see ``forward``.
        """
        if known.shape[:2] != query.shape[:2] or len(query) != len(self.norms) or not known.shape[2]:
            raise InputError(
                f"known: expected patches of {len(self.norms)} blocks for each image, one at least, got "
                f"{tuple(known.shape)} for images {tuple(query.shape)}"
            )
        _check_several(self, query.shape[1])
        answers = []
        for norm, own, good in zip(self.norms, F.normalize(query, dim=3), known, strict=True):
            place, cosine = nearest_rows(own, good)
            apart = (own - good.gather(1, place[..., None].expand_as(own))).abs()
            mixed = norm(_on_grid(own + apart if self.context else apart, grid))
            flat = mixed.flatten(2)
            largest = flat.topk(min(TOP, flat.shape[2]), dim=2).values.mean(dim=2)
            maps = F.interpolate(self.places(mixed).softmax(dim=1), size, mode="bilinear")
            far = F.interpolate(_on_grid(1 - cosine[..., None], grid), size, mode="bilinear")
            answers.append((self.whole((flat.mean(dim=2) + largest) / 2), maps, far[:, 0]))
        logits, maps, far = (torch.stack(list(each)) for each in zip(*answers, strict=True))
        return ComparedPatches(logits, maps, far)


def _on_grid(rows: Float[Tensor, "b n c"], grid: tuple[int, int]) -> Float[Tensor, "b c r s"]:
    if rows.shape[1] != grid[0] * grid[1]:
        raise InputError(f"grid: expected {rows.shape[1]} places, got {grid[0]} x {grid[1]}")
    return rows.mT.unflatten(2, grid)


def _check_several(part: nn.Module, count: int) -> None:
    """BatchNorm takes means over the batch, which one row has not."""
    if part.training and count < 2:
        raise InputError(
            f"{type(part).__name__}: expected 2 images or more in training mode, as its norms take means over them, "
            f"got {count}; take a larger batch_size, or call eval()"
        )
