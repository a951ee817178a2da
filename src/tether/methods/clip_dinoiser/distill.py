"""A head learns from a teacher which patches belong together, without labels: CLIP-DINOiser's training."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.protocols import DualEncoder
from tether.core.ranges import Layer, Positive, checked
from tether.core.types import Batch, Loss
from tether.losses.patch_affinity import dinoiser_loss
from tether.methods.clip_dinoiser.patch_affinity import Cosine, patch_affinity
from tether.models.features.find import tower_of
from tether.models.features.patch_grouping import THIRD_FROM_THE_END, DinoiserHead, inner_map
from tether.models.features.penultimate import grid_of
from tether.training.steps.module import InsideStep, StepModule

PatchTeacher = Callable[[Tensor], Float[Tensor, "b c r s"]]
"""(b, 3, h, w) uint8 images to a map of features, of any grid; patches of one thing have a high cosine."""
HEAD = "grouping"
NEARNESS = 0.5
"""How much places count beside colours, whose spread is 1."""


class ValueTeacher:
    """The values of a tower's last block, or the last map of a network of convolutions, as DINO's are used.

    DINO's values have cosines of different signs. In towers that were taught otherwise all patches of an image share
    a large part; ``less_mean`` takes it away.
    """

    def __init__(self, model: DualEncoder, *, less_mean: bool = False) -> None:
        """Args: model: any of ``tether.load`` whose image tower shows tokens or a map. less_mean: of each image."""
        self.model, self.less_mean = model, less_mean

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Float[Tensor, "b c r s"]:
        """The map of images, which are enlarged or shrunk to the model's size."""
        size = self.model.image_spec.fixed().size
        if tuple(image.shape[2:]) != size:
            image = F.interpolate(image.float(), size, mode="bilinear", antialias=True).round().to(torch.uint8)
        tower = tower_of(self.model)
        stream = tower.embed(image)
        grid, found = grid_of(tower, stream, size=size), stream.x
        if tower.blocks and tower.sealed is None:
            stream = tower.run(stream, stop=-1)
            last = tower.blocks[-1]
            values = last.qkv(last.norm1(stream.x), tower.layout_at(stream.layout, len(tower.blocks) - 1))[2]
            found = values.transpose(1, 2).flatten(2)
        found = found[:, tower.prefix :]
        found = found - found.mean(dim=1, keepdim=True) if self.less_mean else found
        return found.transpose(1, 2).unflatten(2, grid)


class ColourTeacher:
    """Patches of a like colour that lie near each other: a teacher that knows nothing, for who has none."""

    def __init__(self, *, grid: tuple[int, int]) -> None:
        """Args: grid: rows and columns of patches."""
        self.grid = grid

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Float[Tensor, "b 5 r s"]:
        """Mean colour and place of each patch, each of mean 0, colours of a spread of 1."""
        colours = F.adaptive_avg_pool2d(image.float(), self.grid)
        colours = colours - colours.mean(dim=(2, 3), keepdim=True)
        spread = colours.std(dim=(1, 2, 3), keepdim=True, correction=0)
        ends = [
            torch.linspace(-1, 1, side, device=image.device) if side > 1 else colours.new_zeros(1) for side in self.grid
        ]
        places = torch.stack(torch.meshgrid(*ends, indexing="ij"))
        places = NEARNESS * places.expand(len(image), -1, -1, -1)
        return torch.cat([colours / (spread + 1e-6), places], dim=1)


def seed_saliency(affinity: Float[Tensor, "b n n"]) -> Float[Tensor, "b n"]:
    """1 for patches that are not alike to the one that most are alike to, which is taken for background.

    FOUND (arXiv 2212.07834), which teaches the released head, begins so, with the patch that is attended to least.

    Args:
        affinity: 0 for patches that are not alike.
    """
    seed = affinity.sum(dim=2).argmax(dim=1)
    rows = torch.arange(len(affinity), device=affinity.device)
    return (affinity[rows, seed] <= 0).to(affinity.dtype)


class GroupingStep(InsideStep):
    """CLIP-DINOiser's loss of a head on a frozen encoder; a ``core.protocols.Step``.

    Source: arXiv 2312.12359, section 3, and its released code.
    """

    @checked
    def __init__(
        self,
        teacher: PatchTeacher,
        *,
        saliency: Callable[[Tensor], Float[Tensor, "b 1 r s"]] | None = None,
        threshold: Cosine = 0.2,
        temperature: Positive = 1.0,
        layer: Layer = THIRD_FROM_THE_END,
    ) -> None:
        """Take the settings.

        Args:
            teacher: of what belongs together.
            saliency: says of uint8 images where a thing is, 0 to 1, on any grid; None takes ``seed_saliency`` of the
                teacher's affinity.
            threshold: of the teacher's cosines.
            temperature: of the loss, see ``losses.dinoiser_loss``.
            layer: block whose inner patches are read.
        """
        self.teacher, self.saliency, self.threshold = teacher, saliency, threshold
        self.temperature, self.layer = temperature, layer

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep.

        Raises:
            InputError: what the teacher gives is no map of the batch.
        """
        head = cast(DinoiserHead, module.heads[HEAD])
        with torch.no_grad():
            inner = inner_map(cast(DualEncoder, module.model), batch.image, layer=self.layer)
            grid = (inner.shape[2], inner.shape[3])
            features = _at_grid(self.teacher(batch.image), grid, where="teacher", rows=len(inner)).to(inner)
            target = patch_affinity(features.flatten(2).transpose(1, 2), threshold=self.threshold)
            if self.saliency is None:
                salient = seed_saliency(target)[:, None].unflatten(2, grid)
            else:
                salient = _at_grid(self.saliency(batch.image), grid, where="saliency", rows=len(inner)).to(inner)
        keys, things = head(inner)
        found = dinoiser_loss(
            patch_affinity(keys), target, things=things, saliency=salient, temperature=self.temperature
        )
        return Loss(found.total, {"affinity": found.affinity.detach(), "things": found.things.detach()})


def _at_grid(found: Tensor, grid: tuple[int, int], *, where: str, rows: int) -> Float[Tensor, "b c r s"]:
    if found.ndim != 4 or len(found) != rows:
        raise InputError(f"{where}: expected a map ({rows}, c, r, s), got {tuple(found.shape)}")
    return found if tuple(found.shape[2:]) == grid else F.interpolate(found, grid, mode="bilinear")
