"""FarSLIP's two stages on pairs: captions are learnt, and patches inside a crop agree with the crop."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le

from tether.adaptation.recipes.dense import Detail, detailed
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import check_own_towers, move_
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.refusals import check_cosine_model
from tether.adaptation.recipes.tuning import Tuning
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, PositiveRate, Rate, Share, checked
from tether.data.boxes import Unit
from tether.data.contents import BatchContents
from tether.data.regions import MOST
from tether.losses.region_distill import Towards
from tether.methods.farslip.distill import LocalGlobalStep, RegionRow, TeacherName
from tether.models.features.dense_regions import Last


class LocalGlobal(TuneRecipe):
    """Both towers learn your pairs, and patches inside a random crop come to agree with the crop's own patches.

    With ``regions`` above 0 and columns of boxes and phrases, the crops of objects also learn their phrases, the
    paper's second stage. For images of many small things, such as those taken from the air. The logit scale rests.
    Source: FarSLIP (arXiv 2511.14901), with the weights of its release; its rates are for millions of pairs.
    """

    takes = "pairs"
    gives = "model"
    aims = ("boxes",)
    cost = 250.0

    @checked
    def __init__(
        self,
        *,
        boxes: str | None = None,
        phrases: str | None = None,
        unit: Unit | None = None,
        form: Literal["xyxy", "xywh"] = "xyxy",
        most: Annotated[int, Ge(1), Le(MOST)] = 4,
        teacher: TeacherName = "self",
        target: Towards = "patch",
        distill: NonNegative = 0.1,
        captions: NonNegative = 1.0,
        regions: NonNegative = 0.0,
        region_row: RegionRow = "cls",
        last: Last = "self_correlation",
        crops: Count = 4,
        least_side: NonNegative = 0.0,
        momentum: Share = 0.99,
        detail: Detail = 1,
        steps: Count = 400,
        batch_size: Count = 64,
        learning_rate: PositiveRate = 1e-5,
        weight_decay: Rate = 0.1,
    ) -> None:
        """Take the settings.

        Args:
            boxes: column of boxes, learnt from where ``regions`` is above 0 and asked about in the report.
            phrases: column of their phrases.
            unit: see ``data.regions.RegionColumns``.
            form: see ``RegionColumns``.
            most: regions of an image, at most.
            teacher: see ``LocalGlobalStep``, as for all that follows.
            target: what patches are held to.
            distill: weight of the patches.
            captions: weight of the captions.
            regions: weight of the objects.
            region_row: what stands for an object.
            last: see ``models.features.dense_regions.Last``.
            crops: of each image.
            least_side: pixels below which an object is left out.
            momentum: of the teacher ``ema``.
            detail: crops are cut from images of so many times the model's size.
            steps: of the run.
            batch_size: pairs of a step.
            learning_rate: at the start; it falls to 0 as a cosine.
            weight_decay: of matrices.

        Raises:
            InputError: objects without columns of boxes and phrases, or all weights 0.
        """
        self.objects = bool(regions)
        if self.objects and (boxes is None or phrases is None):
            raise InputError("regions: needs the columns boxes and phrases, such as boxes=boxes, phrases=phrases")
        self.columns = {"most": most, "boxes": boxes, "phrases": phrases, "unit": unit, "form": form}
        self.settings = {
            "teacher": teacher, "target": target, "distill": distill, "captions": captions, "regions": regions,
            "region_row": region_row, "last": last, "crops": crops, "least_side": least_side, "momentum": momentum,
            "steps": steps,
        }  # fmt: skip
        LocalGlobalStep(**self.settings)  # refuses now rather than when the data were read
        self.detail, self.steps, self.batch_size = detail, steps, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)
        check_own_towers(model)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        move_(model, "both")
        return Tuning(
            step=LocalGlobalStep(**self.settings, seed=given.seed),
            batches=given.loader(
                model,
                batch_size=self.batch_size,
                contents=BatchContents(regions={**self.columns} if self.objects else None),
                image_spec=detailed(model.image_spec, self.detail),
            ),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            weight_decay=self.weight_decay,
        )
