"""Name things cut out of their images: mask prompts, or the image tower, learn from masked crops with phrases."""

from __future__ import annotations

from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import check_own_towers, move_, rest_
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.refusals import check_cosine_model
from tether.adaptation.recipes.tuning import Tuning
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Positive, PositiveRate, Rate, checked
from tether.core.types import Batch, Loss
from tether.data.boxes import Unit
from tether.data.regions import MOST, RegionColumns
from tether.losses.clip import clip_loss
from tether.methods.ovseg.mask_prompts import DEPTH, add_mask_prompts_, encode_masked, kept_patches
from tether.methods.ovseg.masked_regions import MaskedPhrases, masked_regions
from tether.models.embed import encode_texts
from tether.models.features.find import tower_of
from tether.models.towers.frozen_copy import frozen_copy
from tether.models.towers.vision.mask_prompt_stem import prompts_of
from tether.training.schedules import Cosine
from tether.training.steps.module import InsideStep, StepModule
from tether.training.tensor_batches import TensorBatches

Repeated = Literal["positives", "negatives"]


class MaskedCropsRecipe(TuneRecipe):
    """A CLIP learns to name masked crops, for ``tether segment --with ovseg``.

    With ``moves=prompts`` vectors for blank patches are learnt and all else rests: without a mask the model's
    embeddings stay what they are, bit for bit. With ``moves=image`` the image tower learns the crops as they are; the
    paper does this first and learns prompts of what comes of it.

    Source: OVSeg (arXiv 2210.04150), section 3.2 to 3.4, with the rates and steps' shape of its released code. There a
    noun that comes twice in a batch is its own negative; here ``repeated`` says, as with few phrases that would be most
    of them.
    """

    takes = "pairs"
    gives = "model"
    aims = ("masked_crops",)
    rebuilds = True
    cost = 60.0

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
        moves: Literal["prompts", "image"] = "prompts",
        depth: Annotated[int, Ge(1)] | None = None,
        repeated: Repeated = "positives",
        steps: Count = 400,
        batch_size: Count = 64,
        learning_rate: PositiveRate | None = None,
        warmup: Count = 100,
        weight_decay: Rate = 0.0,
        scale: Positive | None = None,
    ) -> None:
        """Take the settings.

        Args:
            boxes: column of the boxes.
            phrases: column of what is in them.
            masks: column of the masks, see ``data.regions.RegionColumns``; None takes boxes for masks: then nothing is
                blank, and prompts cannot learn.
            unit: see ``RegionColumns``.
            form: see ``RegionColumns``.
            most: regions of an image, at most.
            moves: what learns.
            depth: of new mask prompts; None takes 3, or the tower's blocks where they are fewer. Prompts that the model
                has go on from where they are.
            repeated: whether equal phrases in a batch are each other's positives.
            steps: of the run.
            batch_size: crops of a step, each other's negatives.
            learning_rate: None takes 0.05 for prompts and 5e-6 for the image tower; it falls to 0 as a cosine.
            warmup: steps; at most a quarter of the run.
            weight_decay: of matrices of the image tower; prompts have none.
            scale: of the cosines in the loss; None takes the model's.
        """
        self.columns = {
            "most": most,
            "boxes": boxes,
            "phrases": phrases,
            "masks": masks,
            "unit": unit,
            "form": form,
        }
        self.moves, self.depth, self.repeated, self.steps, self.batch_size = moves, depth, repeated, steps, batch_size
        self.learning_rate = (0.05 if moves == "prompts" else 5e-6) if learning_rate is None else learning_rate
        self.warmup, self.weight_decay, self.scale = warmup, weight_decay, scale

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)
        check_own_towers(model)
        if self.moves == "prompts":
            self._prompted_(frozen_copy(cast(nn.Module, model)), seed=0)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        found = masked_regions(
            given.source, columns=RegionColumns(**self.columns), size=model.image_spec.size, fill=mean_colour(model)
        )
        return self.describe(model, found, seed=given.seed)

    def describe(self, model: DualEncoder, found: MaskedPhrases, *, seed: int) -> Tuning:
        """The tuning on crops that are cut already.

        Raises:
            InputError: one phrase alone, from which there is nothing to tell apart, or no blank patch for prompts.
        """
        if len(found.phrases) < 2:
            raise InputError(f"phrases: expected two different ones at least, got {found.phrases[0]!r:.100} alone")
        module = cast(nn.Module, model)
        if self.moves == "prompts":
            self._prompted_(module, seed=seed)
            rest_(model)
            stem = prompts_of(module)
            assert stem is not None  # it has some now
            if kept_patches(found.masks, patch=stem.patch).all():
                raise InputError("moves=prompts: no crop has a blank patch; give masks=COLUMN, or moves=image")
            stem.prompts.requires_grad_(True)
        else:
            move_(model, "image", where=lambda name: not name.endswith(".prompts"))
        text = F.normalize(encode_texts(model, found.phrases).float(), dim=1)
        scale = float(model.logit_scale.detach()) if self.scale is None else self.scale
        rows = {"image": found.crops, "inside": found.masks, "phrase": found.labels}
        return Tuning(
            step=MaskedCropStep(text, scale=scale, repeated=self.repeated, told=self.moves == "prompts"),
            batches=TensorBatches(rows, batch_size=self.batch_size, seed=seed),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            weight_decay=self.weight_decay if self.moves == "image" else 0.0,
            schedule=Cosine(warmup=max(1, min(self.warmup, self.steps // 4))),
        )

    def _prompted_(self, model: nn.Module, *, seed: int) -> None:
        if prompts_of(model) is None:
            blocks = len(tower_of(cast(DualEncoder, model)).opened().blocks)
            depth = min(DEPTH, blocks) if self.depth is None else self.depth
            add_mask_prompts_(model, depth=depth, generator=torch.Generator().manual_seed(seed))


class MaskedCropStep(InsideStep):
    """CLIP's loss of masked crops and their phrases, whose rows rest; a ``core.protocols.Step``.

    A batch has ``inside``, the masks, and ``phrase``, the number of each one's text, in its extra.
    """

    def __init__(self, text: Float[Tensor, "k d"], *, scale: float, repeated: Repeated, told: bool) -> None:
        """Args: text: unit rows. scale: of cosines. repeated: see the recipe. told: whether the tower sees masks."""
        self.text, self.scale, self.repeated, self.told = text, scale, repeated, told

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
        del step
        model = cast(DualEncoder, module.model)
        device = model.logit_scale.device
        labels = cast("Int[Tensor, ' b']", batch.extra["phrase"]).to(device)
        mask = cast(Tensor, batch.extra["inside"]).to(device) if self.told else None
        pixels = batch.image.to(device)
        features = model.encode_image(pixels) if mask is None else encode_masked(model, pixels, mask=mask)
        image, text = F.normalize(features.pooled.float(), dim=1), self.text.to(device)[labels]
        same = labels if self.repeated == "positives" else None
        return Loss(cast(Tensor, clip_loss(image, text, self.scale, labels=same, gather=gather)))


def mean_colour(model: DualEncoder) -> tuple[float, float, float]:
    """The mean colour that a model's images are normalised by, 0 to 255."""
    red, green, blue = (255 * value for value in model.image_spec.mean)
    return red, green, blue
