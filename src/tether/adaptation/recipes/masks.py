"""Masks of classes from masks with phrases: a mask head behind an encoder that rests, or beside one that learns."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn

from tether.adaptation.heads.masks import MasksHead
from tether.adaptation.recipes.class_masks import class_masks, perturbed
from tether.adaptation.recipes.dense import below_the_output
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import move_, rest_
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.refusals import check_cosine_model, check_text_tower
from tether.adaptation.recipes.tuning import Outcome, Tuning
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.printable import is_line, quoted
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, NonNegative, PositiveRate, PositiveSingle, Rate, checked
from tether.core.types import Batch, Loss
from tether.data.boxes import Unit
from tether.data.contents import BatchContents
from tether.data.regions import MOST, RegionColumns
from tether.losses.mask_aware import compensation_loss, mask_aware_loss
from tether.losses.mask_text import Negatives, mta_loss
from tether.losses.masks import mask_loss, masks_at, match_masks
from tether.models.embed import encode_texts
from tether.models.features.find import tower_of
from tether.models.heads.content_transfer import RegionNamer
from tether.models.heads.mask_decoder import MaskHead
from tether.models.heads.mask_models import NamedMasks, PromptMasks, see_image
from tether.models.texts.prompts import Prompts
from tether.models.towers.frozen_copy import frozen_copy
from tether.training.schedules import Cosine
from tether.training.steps.module import InsideStep, StepModule

HEAD, PROMPTS, NAMER = "head", "prompts", "namer"
MOST_CLASSES = 255


class MaskRecipe(TuneRecipe):
    """What both recipes of masks share: their columns, classes and mask head."""

    takes = "pairs"
    used_by = "segment"
    aims = ("masks",)
    cost = 250.0

    def __init__(self, columns: dict[str, Any], *, classes: Sequence[str] | None, rest: str | None) -> None:
        """Take the settings of the data."""
        self.columns = columns
        self.given_classes, self.rest = classes, rest

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)
        tower_of(model)

    def classes_of(self, source: Source) -> tuple[str, ...]:
        """The names of the classes, sorted, the rest last.

        Rows that cannot be read and phrases with control characters name none.

        Raises:
            InputError: fewer than two, more than 255, or one given with control characters.
        """
        names = set(self.given_classes or ())
        if self.given_classes is None:
            columns = RegionColumns(**self.columns)
            for block in source.blocks():
                for row in source.read(block):
                    if row.image is not None:
                        with contextlib.suppress(InputError):  # a bad row, which the loader names
                            names.update(text for text in columns.phrases_of(row) if text.strip() and is_line(text))
        if strange := [name for name in names if not is_line(name)]:
            raise InputError(f"classes: expected text without control characters, got {quoted(strange[0])}")
        found = [*sorted(names - {self.rest}), *([self.rest] if self.rest else [])]
        if not 2 <= len(found) <= MOST_CLASSES:
            raise InputError(f"{source.name}: expected 2 to {MOST_CLASSES} classes among the phrases, got {len(found)}")
        return tuple(found)

    def batches(self, model: DualEncoder, given: Given, *, batch_size: int) -> Any:
        """Images with the regions of the columns."""
        contents = BatchContents(regions=dict(self.columns))
        return given.loader(model, batch_size=batch_size, contents=contents, image_spec=model.image_spec.fixed())


class MaskText(MaskRecipe):
    """A mask head learns to find the classes of the data; the encoder rests, and class prompts are learnt.

    Source: MTA-CLIP (arXiv 2407.21654). There the backbone is tuned, too. Use what comes of it with ``tether segment
    --head FOLDER``.
    """

    gives = "head"
    used_as = "--head {folder} --classes NAMES --out masks"

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
        classes: Sequence[str] | None = None,
        rest: str | None = "background",
        context: Count = 8,
        prompts: Count = 8,
        negatives: Negatives = "separate",
        temperature: PositiveSingle = 0.07,
        similarity: NonNegative = 1.0,
        dim: Count = 64,
        queries: Count = 32,
        layers: Count = 3,
        doublings: Annotated[int, Ge(0), Le(5)] = 2,
        steps: Count = 1000,
        batch_size: Count = 16,
        learning_rate: PositiveRate = 1e-3,
        weight_decay: Rate = 0.05,
    ) -> None:
        """Take the settings.

        Args:
            boxes: column of the boxes.
            phrases: column of their classes.
            masks: column of their masks, see ``data.regions.RegionColumns``; None takes boxes for masks.
            unit: see ``RegionColumns``.
            form: see ``RegionColumns``.
            most: regions of an image, at most.
            classes: phrases that are classes; None takes all of the data.
            rest: class of what no mask covers; None leaves it without one.
            context: learnt vectors before the words of a class.
            prompts: of a class, each with vectors of its own.
            negatives: see ``losses.mask_text.mask_text_loss``.
            temperature: likewise.
            similarity: weight of that loss.
            dim: of the mask head; a multiple of 4.
            queries: masks of an image.
            layers: of the mask decoder.
            doublings: see ``models.heads.mask_decoder.PixelDecoder``.
            steps: of the run.
            batch_size: images of a step.
            learning_rate: it falls to 0 as a cosine.
            weight_decay: of matrices.
        """
        columns = {"boxes": boxes, "phrases": phrases, "masks": masks, "unit": unit, "form": form, "most": most}
        super().__init__(columns, classes=classes, rest=rest)
        self.context, self.prompts, self.negatives = context, prompts, negatives
        self.temperature, self.similarity = temperature, similarity
        self.shape = {"dim": dim, "queries": queries, "layers": layers, "doublings": doublings}
        self.steps, self.batch_size = steps, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        super().check(model)
        check_text_tower(model)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        rest_(model)
        classes = self.classes_of(given.source)
        prompts = Prompts(
            model,
            classes,
            context=self.context,
            count=self.prompts,
            generator=torch.Generator().manual_seed(given.seed),
        )
        head = drawn_head(model, seed=given.seed, classes=len(classes), **self.shape)

        def texts() -> Float[Tensor, "k p d"]:
            return prompts().unit.unflatten(0, (len(classes), self.prompts))

        def finish() -> Outcome:
            with torch.no_grad():
                found = texts()
            masks = PromptMasks(head, found, temperature=self.temperature)
            rows = found.mean(dim=1)
            return Outcome(head=MasksHead(masks, rows=rows, classes=classes, scale=1 / self.temperature))

        return Tuning(
            step=_PromptStep(self, classes),
            batches=self.batches(model, given, batch_size=self.batch_size),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            weight_decay=self.weight_decay,
            schedule=Cosine(warmup=max(1, min(50, self.steps // 10))),
            training=[head],
            modules={HEAD: head, PROMPTS: prompts},
            finish=finish,
        )


class MaskAware(MaskRecipe):
    """The image tower learns how well a mask fits a class, and a mask head beside it to find masks of any classes.

    Source: MAFT+ (arXiv 2408.00744). Of the image tower all but its last norm and projection moves, a tenth as fast as
    the rest. Use what comes of it with ``tether segment --head FOLDER``, for these classes and for others.
    """

    gives = "both"
    used_as = "--head {folder} --classes NAMES --out masks"

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
        classes: Sequence[str] | None = None,
        rest: str | None = None,
        templates: Sequence[str] = ("a photo of a {}.",),
        start: Literal["none", "norm", "identity"] = "norm",
        proposals: Literal["queries", "perturbed", "both"] = "both",
        aware: NonNegative = 1.0,
        compensation: NonNegative = 0.1,
        find: NonNegative = 1.0,
        dim: Count = 64,
        queries: Count = 32,
        layers: Count = 3,
        doublings: Annotated[int, Ge(0), Le(5)] = 2,
        steps: Count = 1000,
        batch_size: Count = 8,
        learning_rate: PositiveRate = 1e-4,
        tower: NonNegative = 0.1,
        weight_decay: Rate = 0.05,
    ) -> None:
        """Take the settings.

        Args:
            boxes: column of the boxes.
            phrases: column of their classes.
            masks: column of their masks, see ``data.regions.RegionColumns``; None takes boxes for masks.
            unit: see ``RegionColumns``.
            form: see ``RegionColumns``.
            most: regions of an image, at most.
            classes: phrases that are classes; None takes all of the data.
            rest: class of what no mask covers; None leaves it without one.
            templates: sentences with ``{}`` for a class.
            start: of texts that bend to images, see ``models.heads.content_transfer.RegionNamer``.
            proposals: masks of the mask-aware loss: those of the mask head, true ones shrunk, shifted and merged, or
                both.
            aware: weight of the mask-aware loss.
            compensation: weight of what holds the tower to its start.
            find: weight of the mask head's losses.
            dim: of the mask head; a multiple of 4.
            queries: masks of an image.
            layers: of the mask decoder.
            doublings: see ``models.heads.mask_decoder.PixelDecoder``.
            steps: of the run.
            batch_size: images of a step.
            learning_rate: of all but the tower; it falls to 0 as a cosine.
            tower: the image tower's rate, as a multiple of it.
            weight_decay: of matrices.
        """
        columns = {"boxes": boxes, "phrases": phrases, "masks": masks, "unit": unit, "form": form, "most": most}
        super().__init__(columns, classes=classes, rest=rest)
        self.templates, self.start, self.proposals = templates, start, proposals
        self.aware, self.compensation, self.find = aware, compensation, find
        self.shape = {"dim": dim, "queries": queries, "layers": layers, "doublings": doublings}
        self.steps, self.batch_size, self.tower = steps, batch_size, tower
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        frozen = cast(DualEncoder, frozen_copy(cast(nn.Module, model)))
        moving = move_(model, "image", where=below_the_output)
        classes = self.classes_of(given.source)
        texts = class_rows(frozen, classes, templates=self.templates)
        head = drawn_head(model, seed=given.seed, classes=None, **self.shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(given.seed + 1)
            namer = RegionNamer(model.dim, heads=heads_of(model.dim), start=self.start)
        named = NamedMasks(head, namer.to(texts))
        scale = float(model.logit_scale.detach())
        groups = [
            {"name": f"{part} {kind}", "params": some, "weight_decay": decay, "lr_scale": speed}
            for part, values, speed in (
                ("tower", moving, self.tower),
                ("head", {f"heads.{NAMER}.{name}": one for name, one in named.named_parameters()}, 1.0),
            )
            for kind, wide, decay in (("matrices", True, self.weight_decay), ("vectors", False, 0.0))
            if (some := [(name, one) for name, one in values.items() if (one.ndim >= 2) == wide])
        ]
        return Tuning(
            step=_AwareStep(self, classes, texts=texts, frozen=frozen, scale=scale, seed=given.seed),
            batches=self.batches(model, given, batch_size=self.batch_size),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            groups=groups,
            schedule=Cosine(warmup=max(1, min(50, self.steps // 10))),
            training=[named],
            modules={NAMER: named},
            finish=lambda: Outcome(model=model, head=MasksHead(named, rows=texts, classes=classes, scale=scale)),
        )


class _PromptStep(InsideStep):
    """MTA-CLIP's loss of a batch."""

    def __init__(self, settings: MaskText, classes: Sequence[str]) -> None:
        self.settings, self.classes = settings, classes

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
        settings = self.settings
        with torch.no_grad():
            seen = see_image(cast(DualEncoder, module.model), batch.image)
        texts = module.heads[PROMPTS]().unit.unflatten(0, (len(self.classes), settings.prompts))
        found = module.heads[HEAD](seen.features, texts=texts)
        masks, labels = class_masks(batch, self.classes, rest=settings.rest)
        terms = mta_loss(
            found,
            texts,
            masks,
            labels,
            negatives=settings.negatives,
            temperature=settings.temperature,
            similarity=settings.similarity,
            over="processes",
            gather=gather,
        )
        return Loss(terms.total, {"similarity": terms.similarity, "iou": terms.layers[-1].iou})


class _AwareStep(InsideStep):
    """MAFT+'s loss of a batch."""

    def __init__(
        self,
        settings: MaskAware,
        classes: Sequence[str],
        *,
        texts: Float[Tensor, "k d"],
        frozen: DualEncoder,
        scale: float,
        seed: int,
    ) -> None:
        self.settings, self.classes, self.texts = settings, classes, texts
        self.frozen, self.scale, self.seed = frozen, scale, seed

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
        settings, named = self.settings, cast(NamedMasks, module.heads[NAMER])
        seen = see_image(cast(DualEncoder, module.model), batch.image)
        with torch.no_grad():
            before = see_image(self.frozen, batch.image)
        found = named.head(seen.features)
        masks, labels = class_masks(batch, self.classes, rest=settings.rest)
        size = (found.logits.shape[3], found.logits.shape[4])
        goal = masks_at(masks, size)
        parts = []
        for logits, classes in zip(found.logits, named.own_logits(found, self.texts, scale=self.scale), strict=True):
            match = match_masks(logits, goal, class_logits=classes, labels=labels)
            parts.append(mask_loss(logits, goal, class_logits=classes, labels=labels, match=match, gather=gather))
        offered = [] if settings.proposals == "perturbed" else [found.logits[-1].detach()]
        if settings.proposals != "queries":
            generator = torch.Generator().manual_seed(hash_int(str(step), seed=self.seed, salt="masks") >> 1)
            offered.append(perturbed(goal > 0.5, generator=generator))
        proposals = torch.cat(offered, dim=1)
        logits = named.namer(seen.under(proposals), seen.places(), self.texts, scale=self.scale)
        aware = mask_aware_loss(logits, proposals, goal, labels, over="processes", gather=gather)
        near = compensation_loss(
            seen.features.movedim(-1, 1), before.features.movedim(-1, 1), scales=scales_of(seen.features)
        )
        masks_part = torch.stack([part.total for part in parts]).sum()
        total = settings.find * masks_part + settings.aware * aware + settings.compensation * near
        return Loss(total, {"masks": masks_part, "aware": aware, "compensation": near})


def drawn_head(model: DualEncoder, *, seed: int, classes: int | None, dim: int, **shape: int) -> MaskHead:
    """A mask head for a model's map and texts, on its device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = MaskHead(
            tower_of(model).width, dim=dim, heads=heads_of(dim), classes=classes, text_dim=model.dim, **shape
        )
    return head.to(model.logit_scale.device)


def heads_of(dim: int) -> int:
    """At most 8, and a divisor."""
    return max(one for one in (1, 2, 4, 8) if dim % one == 0)


@torch.no_grad()
def class_rows(model: DualEncoder, classes: Sequence[str], *, templates: Sequence[str]) -> Float[Tensor, "k d"]:
    """Unit rows: the mean of each class's unit sentences."""
    said = encode_texts(model, [one.replace("{}", name) for name in classes for one in templates])
    rows = F.normalize(said.float(), dim=1).unflatten(0, (len(classes), len(templates))).mean(dim=1)
    return F.normalize(rows, dim=1).to(model.logit_scale.device)


def scales_of(features: Float[Tensor, "b r c w"]) -> tuple[int, ...]:
    """1, 2 and 4, as far as the map has so many places."""
    return tuple(one for one in (1, 2, 4) if one <= max(features.shape[1:3]))
