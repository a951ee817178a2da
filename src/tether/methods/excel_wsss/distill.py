"""An adapter learns how patches relate from maps of the classes that images are known to show: ExCEL's training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.gather import Gather
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, Share, Whole, checked
from tether.core.types import Batch, Loss
from tether.losses.patch_affinity import affinity_loss, halved_cross_entropy, label_affinity
from tether.methods.excel_wsss.class_maps import BLOCKS, class_maps, patch_attention, self_correlation_features
from tether.methods.excel_wsss.map_refinement import attention_refine, mean_attention, pseudo_labels, stretched
from tether.methods.excel_wsss.patch_relation import block_patches, predicted_affinity, relation_weights
from tether.models.features.find import anatomy_of
from tether.training.steps.module import InsideStep, StepModule

ADAPTER, DECODER = "adapter", "decoder"


@checked
@dataclass(frozen=True, kw_only=True)
class LabelMaker:
    """Labels of pixels to learn from, by a frozen encoder that is told which classes each image shows.

    Source: ExCEL (arXiv 2503.20826), section 3.4, and its released code. Maps are stretched to 0 and 1 again after
    attention has spread them.

    Attributes:
        texts: (t, d) unit rows of the classes, and then of what is background.
        classes: how many come first.
        blocks: that are changed, see ``methods.excel_wsss.class_maps.self_correlation_features``.
        spread: maps along the ``attention`` of the last blocks.
        low: value of a map below which nothing is there.
        high: above which it is sure.
        rounds: of ``methods.excel_wsss.map_refinement.pixel_refine``.

    Example:
        >>> import torch
        >>> from tether.methods.excel_wsss.distill import LabelMaker
        >>> from tether.models import create
        >>> maker = LabelMaker(texts=torch.eye(3, 64), classes=3)
        >>> maker(create("tiny").eval(), torch.zeros(2, 3, 32, 32, dtype=torch.uint8), shown=[[0], [1, 2]]).shape
        torch.Size([2, 32, 32])
    """

    texts: Float[Tensor, "t d"]
    classes: Count
    blocks: Count = BLOCKS
    spread: Literal["attention", "none"] = "attention"
    low: Share = 0.25
    high: Share = 0.7
    rounds: Whole = 10

    @torch.no_grad()
    def __call__(
        self,
        model: DualEncoder,
        image: Tensor,
        *,
        shown: Sequence[Sequence[int]],
        feature: Float[Tensor, "b n c"] | None = None,
    ) -> Int[Tensor, "b h w"]:
        """0 for the background, n + 1 for class n, 255 for nothing to learn from.

        Args:
            model: frozen, with a vision transformer.
            image: (b, 3, h, w) uint8 pixels.
            shown: numbers of the classes of each image.
            feature: of an adapter; it makes the maps better, and says which attention to trust.
        """
        relation = None if feature is None else relation_weights(feature)
        features = self_correlation_features(model, image, blocks=self.blocks, relation=relation).float()
        maps = class_maps(features, self.texts.to(features), classes=self.classes)
        maps = maps.transpose(1, 2).unflatten(2, anatomy_of(model).grid(image))
        if self.spread == "attention":
            affinity = None if feature is None else predicted_affinity(feature)
            maps = _spread(model, image, maps, shown=shown, affinity=affinity)
        bars = {"low": self.low, "high": self.high, "rounds": self.rounds}
        each = zip(maps, image.float(), shown, strict=True)
        return torch.stack([pseudo_labels(own, pixels, present=present, **bars) for own, pixels, present in each])


def _spread(
    model: DualEncoder,
    image: Tensor,
    maps: Float[Tensor, "b k r c"],
    *,
    shown: Sequence[Sequence[int]],
    affinity: Float[Tensor, "b n n"] | None,
) -> Float[Tensor, "b k r c"]:
    """Maps of classes that are shown, along the attention of the last blocks."""
    attention, found = patch_attention(model, image), maps.clone()
    for number, present in enumerate(map(list, shown)):
        if present:
            trusted = mean_attention(attention[number], affinity=None if affinity is None else affinity[number])
            found[number, present] = stretched(attention_refine(maps[number, present], trusted), dim=(1, 2))
    return found


class RelationStep(InsideStep):
    """ExCEL's loss of an adapter and its decoder on a frozen encoder; a ``core.protocols.Step``.

    The decoder learns labels of pixels, and the adapter which patches are of one class. Labels come first from the
    frozen encoder alone, and later from it with the adapter; what is of one class is at the end what the decoder says.

    Source: arXiv 2503.20826, section 3.4, and its released code.
    """

    @checked
    def __init__(
        self,
        maker: LabelMaker,
        *,
        shown: Mapping[str, Sequence[int]],
        affinity: NonNegative = 0.1,
        radius: Whole = 8,
        calibrated: Whole = 14_000,
        own: Whole = 24_000,
    ) -> None:
        """Take the settings.

        Args:
            maker: of the labels.
            shown: numbers of the classes of each image, by the key of its row.
            affinity: weight of the loss of the adapter's affinities.
            radius: rows and columns that two patches may lie apart, see ``losses.label_affinity``.
            calibrated: step from which on the adapter makes the maps better.
            own: step from which on the decoder says which patches are of one class.
        """
        self.maker, self.shown, self.affinity, self.radius = maker, shown, affinity, radius
        self.calibrated, self.own = calibrated, own

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
        model = cast(DualEncoder, module.model)
        blocks, grid = block_patches(model, batch.image)
        feature = module.heads[ADAPTER](blocks)
        logits = module.heads[DECODER](feature, grid=grid)
        shown = [self.shown[key] for key in cast(Sequence[str], batch.extra["keys"])]
        better = feature.detach() if step >= self.calibrated else None
        labels = self.maker(model, batch.image, shown=shown, feature=better)
        if step >= self.own:
            classes = logits.detach().argmax(dim=1)
        else:
            classes = F.interpolate(labels[:, None].float(), grid, mode="nearest-exact")[:, 0].long()
        size = (labels.shape[1], labels.shape[2])
        said = halved_cross_entropy(F.interpolate(logits, size, mode="bilinear"), labels)
        alike = affinity_loss(predicted_affinity(feature), label_affinity(classes, radius=self.radius))
        return Loss(said + self.affinity * alike, {"classes": said.detach(), "affinity": alike.detach()})
