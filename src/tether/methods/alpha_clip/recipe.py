"""Ask about a region: an image tower learns to take alpha, from boxes or masks with phrases."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.adaptation.finetune.lora import Lora as LoraEdit
from tether.adaptation.recipes.class_step import CROPS
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import check_own_towers, move_, prefixes
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.refusals import check_cosine_model, refused
from tether.adaptation.recipes.tuning import Tuning
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Decay, NonNegative, Positive, PositiveRate, Rate, Share, checked
from tether.core.types import Batch, Loss, Regions
from tether.data.boxes import Unit
from tether.data.collate import REGION_TEXT
from tether.data.contents import BatchContents
from tether.data.region_views import whole_image
from tether.data.regions import MOST
from tether.losses.clip import clip_loss
from tether.models.encoders.region_tower import alpha_from_mask, alpha_param_groups, encode_regions
from tether.models.features.editable import IN_A_BLOCK, editable_layers, name_pattern
from tether.models.towers.frozen_copy import frozen_copy
from tether.models.towers.vision.alpha_stem import AlphaStem, add_alpha_, stem_of
from tether.training.schedules import Cosine
from tether.training.steps.module import InsideStep, StepModule, joined_texts

POINTS = 3
"""Points that stand for a mask or a box."""


class RegionsRecipe(TuneRecipe):
    """The image tower takes a second input that says which region is meant, and learns each region's phrase.

    Of every image one region a step, or with a small probability the whole image with its caption. The convolution over
    alpha starts at zero; the rest of the image tower moves a hundred times more slowly, the text tower rests. Ask the
    model with ``tether classify --regions``.

    Source: Alpha-CLIP (arXiv 2312.03818), with the rates and the loss of its released code, but for its label smoothing
    of 0.1, which cost regions and captions in our pilots. There the data are millions of pseudo-masks; here they are
    yours. ``common`` is the paper's; the code's own default is 0.
    """

    takes = "pairs"
    gives = "model"
    aims = ("regions",)
    rebuilds = True
    cost = 250.0

    @checked
    def __init__(
        self,
        *,
        boxes: str = "boxes",
        phrases: str = "phrases",
        masks: str | None = None,
        unit: Unit | None = None,
        form: Literal["xyxy", "xywh"] = "xyxy",
        most: Annotated[int, Ge(1), Le(MOST)] = 64,
        common: Share = 0.1,
        as_boxes: Share = 0.0,
        as_points: Share = 0.0,
        images: Literal["plain", "crops"] = "plain",
        fit: Literal["whole", "model"] = "whole",
        repeated: Literal["negatives", "positives"] = "negatives",
        rank: Count | None = None,
        steps: Count = 400,
        batch_size: Count = 64,
        learning_rate: PositiveRate = 4e-5,
        gamma: NonNegative = 0.01,
        warmup: Count = 200,
        weight_decay: Rate = 0.01,
        label_smoothing: Decay = 0.0,
        scale: Positive = 100.0,
    ) -> None:
        """Take the settings.

        Args:
            boxes: column of the boxes.
            phrases: column of their phrases.
            masks: column of their masks, see ``data.regions.RegionColumns``; None takes boxes for masks.
            unit: see ``RegionColumns``.
            form: see ``RegionColumns``.
            most: regions of an image that the report asks about.
            common: probability of the whole image with its caption; images without a region always are that.
            as_boxes: probability that a mask is given as its box.
            as_points: probability that a region is given as three points in it.
            images: as they are, or random crops, mirrored in half of the cases (wrong for "left" and "right").
            fit: the ``whole`` image, padded to the model's aspect with black, or as the ``model`` prepares it.
            repeated: whether equal phrases in a batch are each other's negatives, as in the released code.
            rank: if given, the tower's linear layers change by LoRA of this rank at ``learning_rate``, not all of it.
            steps: of the run.
            batch_size: regions of a step, each other's negatives.
            learning_rate: of the kernel of alpha, after the warm-up; it falls to 0 as a cosine.
            gamma: the image tower's rate, as a multiple of it.
            warmup: steps; at most a quarter of the run.
            weight_decay: of all that moves; AdamW's default, with which the released code runs.
            label_smoothing: see ``losses.clip.clip_loss``; the released code has 0.1.
            scale: of the cosines in the loss, fixed; the model's own stays as it is.

        Raises:
            InputError: ``as_boxes`` and ``as_points`` are above 1 together.
        """
        if as_boxes + as_points > 1:
            raise InputError(f"as_boxes: expected at most 1 with as_points, got {as_boxes} and {as_points}")
        columns = {"boxes": boxes, "phrases": phrases, "masks": masks, "unit": unit, "form": form}
        self.columns = {"most": most, **columns}
        self.common, self.as_boxes, self.as_points = common, as_boxes, as_points
        self.images, self.fit, self.repeated, self.rank = images, fit, repeated, rank
        self.steps, self.batch_size, self.learning_rate, self.gamma = steps, batch_size, learning_rate, gamma
        self.warmup, self.weight_decay = warmup, weight_decay
        self.label_smoothing, self.scale = label_smoothing, scale

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)
        check_own_towers(model)
        add_alpha_(frozen_copy(cast(nn.Module, model)))
        if self.rank is not None and not self._layers(model):
            raise refused("no blocks", found="image side")

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        module = cast(nn.Module, model)
        stem, edits = add_alpha_(module), []
        move_(model, "image")
        if self.rank is not None:
            targets = f"^(?:{'|'.join(map(re.escape, self._layers(model)))})$"
            edits = [LoraEdit(rank=self.rank, targets=targets)]
            edits[0].apply_(module)
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(".lora_" in name or parameter is stem.alpha)
        gamma = self.gamma if self.rank is None else 1.0
        return Tuning(
            step=RegionStep(self, seed=given.seed),
            batches=given.loader(
                model,
                batch_size=self.batch_size,
                contents=BatchContents(
                    crops=CROPS if self.images == "crops" else None, regions={**self.columns, "most": 1}
                ),
                image_spec=whole_image(model.image_spec) if self.fit == "whole" else model.image_spec.fixed(),
            ),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            groups=alpha_param_groups(module, lr=self.learning_rate, gamma=gamma, weight_decay=self.weight_decay),
            schedule=Cosine(warmup=max(1, min(self.warmup, self.steps // 4))),
            edits=edits,
        )

    def _layers(self, model: DualEncoder) -> list[str]:
        begins = tuple(f"{one}." for one in prefixes(model, "image"))
        try:
            found = editable_layers(cast(nn.Module, model), name_pattern(IN_A_BLOCK, where="targets"), where="targets")
        except InputError:
            return []
        return [name for name in found if name.startswith(begins)]


class RegionStep(InsideStep):
    """CLIP's loss of regions and their phrases; a ``core.protocols.Step`` over a model that takes alpha.

    A batch has one region a row in its extra, as ``BatchContents(regions={"most": 1, ...})`` gives it.
    """

    def __init__(self, settings: RegionsRecipe, *, seed: int) -> None:
        """Args: settings: of the recipe. seed: of the draws."""
        self.settings, self.seed = settings, seed

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
        generator = torch.Generator().manual_seed(hash_int(str(step), seed=self.seed, salt="regions") >> 1)
        model, regions = cast(DualEncoder, module.model), cast(Regions, batch.extra["regions"])
        whole, said = torch.rand(len(batch.image), generator=generator), torch.tensor(_said(regions))
        whole = ((whole < self.settings.common) | ~said).to(batch.image.device) | ~regions.valid[:, 0]
        stem = stem_of(module)
        assert stem is not None  # ``tuning`` has added it
        alpha = self._alpha(batch, regions, whole, stem=stem, generator=generator)
        image = F.normalize(encode_regions(model, batch.image, alpha=alpha), dim=1)
        both = joined_texts([batch.text, cast(Tensor, batch.extra[REGION_TEXT])])
        captions, phrases = both.chunk(2)
        with torch.no_grad():
            text = model.encode_text(_trimmed(torch.where(whole[:, None], captions, phrases))).unit
        labels = None
        if self.settings.repeated == "positives" and regions.ids is not None:
            apart = -2 - torch.arange(len(whole), device=whole.device)  # captions are no phrases
            labels = torch.where(whole, apart, regions.ids[:, 0])
        settings = self.settings
        loss = clip_loss(
            image, text, settings.scale, label_smoothing=settings.label_smoothing, labels=labels, gather=gather
        )
        return Loss(cast(Tensor, loss))

    def _alpha(
        self, batch: Batch, regions: Regions, whole: Bool[Tensor, " b"], *, stem: AlphaStem, generator: torch.Generator
    ) -> Float[Tensor, "b 1 h w"]:
        """The regions as masks, boxes or points; of whole images what is no padding."""
        size = (batch.image.shape[2], batch.image.shape[3])
        made = partial(alpha_from_mask, size=size, **stem.settings)
        everything = _window(cast(Tensor, batch.extra["image_box"]), flipped=cast(Tensor, batch.extra["image_flipped"]))
        boxes = torch.where(whole[:, None], everything, regions.boxes[:, 0])
        alpha = made(boxes=boxes)
        inside = alpha > stem.normalise(torch.tensor(0.5))
        if regions.masks is not None:
            inside = torch.where(whole[:, None, None, None], inside, regions.masks)
        draw = torch.rand(len(whole), generator=generator).to(whole.device)
        as_points = ~whole & (draw >= 1 - self.settings.as_points)
        as_boxes = whole | (draw < self.settings.as_boxes)
        noise = torch.rand(inside.shape, generator=generator).to(inside.device) * inside
        places = noise.flatten(1).topk(POINTS, dim=1).indices
        pixel = torch.stack([places % size[1] + 0.5, places.div(size[1], rounding_mode="floor") + 0.5], dim=2)
        points = made(points=pixel / pixel.new_tensor([size[1], size[0]]))
        found = torch.where(as_boxes[:, None, None, None], alpha, made(inside))
        return torch.where(as_points[:, None, None, None], points, found)


def _said(regions: Regions) -> list[bool]:
    assert regions.phrases is not None
    return [bool(some[0].strip()) for some in regions.phrases]


def _window(box: Float[Tensor, "b 4"], *, flipped: Bool[Tensor, " b"]) -> Float[Tensor, "b 4"]:
    """Where the image lies in a view that shows ``box`` of it."""
    x0, y0, x1, y1 = box.unbind(dim=1)
    left, right = (-x0 / (x1 - x0)).clamp(0, 1), ((1 - x0) / (x1 - x0)).clamp(0, 1)
    top, bottom = (-y0 / (y1 - y0)).clamp(0, 1), ((1 - y0) / (y1 - y0)).clamp(0, 1)
    return torch.stack([torch.where(flipped, 1 - right, left), top, torch.where(flipped, 1 - left, right), bottom], 1)


def _trimmed(text: Int[Tensor, "b l"]) -> Int[Tensor, "b k"]:
    """Without columns that no row of the batch fills."""
    return text[:, : int((text != 0).any(dim=0).nonzero().max()) + 1]
