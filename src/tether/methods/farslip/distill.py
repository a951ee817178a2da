"""Patches of a whole image agree with those of its crops while captions are learnt: FarSLIP, arXiv 2511.14901."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tether.adaptation.distill.clipself import at_size
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, Part, Positive, Share, checked
from tether.core.types import Batch, Features, Loss, Regions
from tether.data.collate import REGION_TEXT
from tether.data.region_proposals import cut_regions, random_crops
from tether.losses import caption_labels, clip_loss, patch_distill_loss, region_contrast_loss
from tether.losses.checks import unit_rows
from tether.losses.region_distill import Towards
from tether.models.features.dense_regions import Last, dense_patches, pooled_patches
from tether.training.steps.module import Encoder, InsideStep, StepModule
from tether.training.steps.teachers import MovingTeacher, StartTeacher, Teacher

TeacherName = Literal["self", "ema", "frozen"]
RegionRow = Literal["cls", "patches", "region"]
"""What stands for an object: its crop's embedding, the mean of its crop's patches, or its patches in the whole."""


class LocalGlobalStep(InsideStep):
    """``distill * L_d + regions * L_l + captions * L_g``; a part whose weight is 0 is not computed.

    L_d holds the patches inside of a random crop, pooled out of the whole image, to what the crop says as an image of
    its own; L_l is the contrastive loss of the batch's regions and their phrases, equal phrases being positives of each
    other; L_g is CLIP's loss of whole images and captions. All see the model's logit scale, which should rest or be
    bounded. ``patch_spread`` is logged, the mean distance of an image's unit patches from their mean: it falls to 0
    where patches become all alike, which a large ``distill`` with the teacher ``self`` can do.

    It is a ``core.protocols.Taught``: with ``ema`` the average belongs to the run's checkpoints.

    Example:
        >>> import torch
        >>> from tether.methods.farslip import LocalGlobalStep
        >>> from tether.core.gather import LOCAL
        >>> from tether.core.types import Batch
        >>> from tether.models import create
        >>> from tether.training.steps.module import StepModule
        >>> model = create("tiny").eval()
        >>> batch = Batch(torch.rand(2, 3, 32, 32), model.tokenizer(["a red star", "a blue ring"]))
        >>> sorted(LocalGlobalStep()(StepModule(model), batch, step=0, gather=LOCAL).terms)
        ['contrastive', 'local', 'patch_spread']
    """

    @checked
    def __init__(
        self,
        *,
        teacher: TeacherName = "self",
        target: Towards = "patch",
        distill: NonNegative = 0.1,
        captions: NonNegative = 1.0,
        regions: NonNegative = 0.0,
        region_row: RegionRow = "cls",
        last: Last = "self_correlation",
        crops: Count = 4,
        scale: tuple[Part, Part] = (0.3, 0.7),
        ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3),
        least_side: NonNegative = 0.0,
        momentum: Share = 0.99,
        steps: Count = 1,
        seed: int = 0,
    ) -> None:
        """Take the settings.

        Args:
            teacher: who reads the crops of L_d: ``self``, the model, with gradient on both sides; ``ema``, an average
                of its weights; or ``frozen``, the model as it was.
            target: see ``losses.region_distill.Towards``; ``cls`` is as CLIPSelf has it.
            distill: weight of L_d.
            captions: weight of L_g.
            regions: weight of L_l, the paper's second stage.
            region_row: see ``RegionRow``.
            last: see ``models.features.dense_regions.Last``.
            crops: of each image.
            scale: of the crops, see ``random_crops``.
            ratio: likewise.
            least_side: pixels of the batch's images; smaller regions are left out of L_l (64 in the paper).
            momentum: of the average.
            steps: of the run.
            seed: of the crops.

        Raises:
            InputError: all weights are 0.
        """
        if not distill + captions + regions:
            raise InputError("weights: expected one of distill, captions and regions above 0")
        self.target: Towards = target
        self.last: Last = last
        self.region_row: RegionRow = region_row
        self.weights = {"distill": distill, "captions": captions, "regions": regions}
        self.crops, self.scale, self.ratio, self.least_side, self.seed = crops, scale, ratio, least_side, seed
        self.steps = steps
        self._teacher: Teacher | None = None
        if teacher != "self" and distill:
            self._teacher = StartTeacher() if teacher == "frozen" else MovingTeacher(momentum=momentum)

    def see_start(self, model: DualEncoder) -> None:
        """See core.protocols.Taught."""
        if self._teacher is not None:
            self._teacher.see_start(cast(Encoder, model))
            self._teacher.see_now(cast(Encoder, model), steps=self.steps)

    def follow_(self, *, step: int) -> None:
        """See core.protocols.Taught."""
        if isinstance(self._teacher, MovingTeacher):
            self._teacher.follow_(step=step)

    def teacher_tensors(self) -> dict[str, Tensor]:
        """See core.protocols.Taught."""
        return self._teacher.tensors() if isinstance(self._teacher, MovingTeacher) else {}

    def load_teacher_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """See core.protocols.Taught."""
        if isinstance(self._teacher, MovingTeacher):
            self._teacher.load(dict(tensors))

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep.

        Raises:
            InputError: no regions with phrases in the batch where their weight is above 0, or no captions.
        """
        model, losses = cast(DualEncoder, module.model), dict[str, Tensor]()
        image = at_size(batch.image, model)
        whole = dense_patches(model, image, last=self.last)
        assert whole.tokens is not None  # dense_image gives them
        unit = F.normalize(whole.tokens.detach().float(), dim=2)
        logged = {"patch_spread": (unit - unit.mean(dim=1, keepdim=True)).norm(dim=2).mean()}
        if self.weights["captions"]:
            if not batch.text.numel():
                raise InputError("batch.text: expected a caption of each image, got none")
            text = model.encode_text(batch.text)
            labels = caption_labels(batch.text)
            losses["captions"] = cast(
                Tensor, clip_loss(unit_rows(whole), unit_rows(text), model.logit_scale, labels=labels, gather=gather)
            )
            logged["contrastive"] = losses["captions"].detach()
        if self.weights["distill"]:
            losses["distill"] = self._local(model, batch.image, image, whole.tokens, step=step, gather=gather)
            logged["local"] = losses["distill"].detach()
        if self.weights["regions"]:
            losses["regions"] = self._objects(model, batch, image, whole.tokens, gather=gather)
            logged["objects"] = losses["regions"].detach()
        total = torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()
        return Loss(total, logged)

    def _local(
        self, model: DualEncoder, pixels: Tensor, image: Tensor, tokens: Tensor, *, step: int, gather: Gather
    ) -> Tensor:
        """L_d over random crops."""
        rows = len(pixels)
        generator = torch.Generator().manual_seed(hash_int(str(step), seed=self.seed, salt="local crops") >> 1)
        drawn = random_crops(
            rows * gather.world,
            generator=generator,
            size=(pixels.shape[2], pixels.shape[3]),
            most=self.crops,
            scale=self.scale,
            ratio=self.ratio,
        )
        boxes = drawn[gather.rank * rows : (gather.rank + 1) * rows].to(pixels.device, non_blocking=True)
        valid = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
        regions = pooled_patches(model, tokens, boxes, image=image, valid=valid, rows="raw", bins="grid").flatten(0, 1)
        reader, learns = model, self._teacher is None
        if self._teacher is not None:
            if self._teacher.model is None:
                raise InputError("teacher: not there yet; call see_start(model) before the first step")
            if isinstance(self._teacher, MovingTeacher):
                self._teacher.at_(pixels.device)
            reader = cast(DualEncoder, self._teacher.model.to(pixels.device))
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            seen = self._crops(reader, pixels, boxes, valid)
        assert seen.tokens is not None
        learn: Literal["no", "yes"] = "yes" if learns else "no"
        return patch_distill_loss(
            regions, seen.tokens, seen.pooled, target=self.target, targets_learn=learn, over="process", gather=gather
        )

    def _crops(self, model: DualEncoder, pixels: Tensor, boxes: Tensor, valid: Tensor) -> Features:
        size = model.image_spec.fixed().size
        return dense_patches(model, cut_regions(pixels, boxes, valid=valid, size=size), last=self.last)

    def _objects(
        self, model: DualEncoder, batch: Batch, image: Tensor, tokens: Tensor, *, gather: Gather
    ) -> Float[Tensor, ""]:
        """L_l over the batch's regions."""
        regions, words = batch.extra.get("regions"), batch.extra.get(REGION_TEXT)
        if not isinstance(regions, Regions) or regions.ids is None or not isinstance(words, Tensor):
            raise InputError(
                f"batch.extra: expected 'regions' with phrases, got {', '.join(batch.extra) or 'nothing'}; the "
                "loader's contents bring them: BatchContents(regions={'most': 4, 'phrases': COLUMN})"
            )
        height, width = batch.image.shape[2:]
        sides = (regions.boxes[..., 2:] - regions.boxes[..., :2]) * regions.boxes.new_tensor([width, height])
        valid: Bool[Tensor, "b r"] = regions.valid & (regions.ids >= 0) & (sides >= self.least_side).all(dim=2)
        if self.region_row == "region":
            rows = pooled_patches(
                model, tokens, regions.boxes, image=image, valid=valid, rows="raw", bins="grid"
            ).float()
        else:
            rows = tokens.new_zeros(*valid.shape, model.dim, dtype=torch.promote_types(tokens.dtype, torch.float32))
            if bool(valid.any()):
                seen = self._crops(model, batch.image, regions.boxes, valid)
                assert seen.tokens is not None
                found = seen.pooled if self.region_row == "cls" else seen.tokens.mean(dim=1)
                rows = rows.masked_scatter(valid[..., None], found.to(rows))
            rows = rows + 0.0 * tokens.sum()  # differentiable without a region, too
        text = model.encode_text(words).pooled.to(rows).unflatten(0, tuple(valid.shape))
        return region_contrast_loss(
            F.normalize(rows, dim=2),
            F.normalize(text, dim=2),
            model.logit_scale,
            ids=regions.ids,
            valid=valid,
            equal="each",
            gather=gather,
        )
