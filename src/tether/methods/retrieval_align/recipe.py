"""An image tower for image-to-image search, whose images go on matching their texts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.adaptation.recipes.class_tuning import Images, contents_of
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import check_own_towers, move_
from tether.adaptation.recipes.recipe import Case, TuneRecipe
from tether.adaptation.recipes.refusals import check_cosine_model
from tether.adaptation.recipes.tuning import Played, Tuning, play
from tether.adaptation.recipes.two_stages import TwoStages
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder, Step
from tether.core.ranges import Count, NonNegative, Positive, PositiveRate, Rate, Whole, checked
from tether.core.types import Batch, Loss
from tether.data import open_source
from tether.data.loader import Loader
from tether.losses import VocabSampler
from tether.methods.retrieval_align import ArcMarginHead
from tether.methods.retrieval_align.finetune import (
    CAPTIONS,
    CLASSES,
    LABEL,
    ArcMarginStep,
    RealignStep,
    state_parameters,
)
from tether.methods.retrieval_align.loss import MARGIN, SCALE, Margin
from tether.models.embed import encode_texts
from tether.optim import parameter_groups
from tether.training.loop import StepReport
from tether.training.schedules import Cosine
from tether.training.steps.module import Encoder
from tether.training.tensor_batches import Batches

SENTENCES = ("a photo of a {}.", "{}", "a picture of the {}.", "one {}.", "this is a {}.")
"""Sentences of a class where it has fewer prompts than ``captions`` asks for."""
LEARNING_RATE, HEAD_RATE, WEIGHT_DECAY = 1e-5, 1e-3, 0.1  # none is published


class ImageSearch(TuneRecipe):
    """Images of one class are brought together by a margin of angles, and are held to what is said of them.

    ``mcip`` holds each image to several sentences of its class meanwhile, with the text side at rest; ``2sft`` looks at
    classes alone, before the projection into the joint space. Then, over ``realign_steps``, the text side is brought
    to the images, which stand still. The class vectors are dropped. In the check of the paper ``mcip`` lost nothing by
    text and gained little by image; weights between the base and class margins alone did better on the sum of both.

    Source: arXiv 2409.01936 (MCIP, 2SFT and Re-A), of which no training code is public: rates, scale and margin are
    ours. There, captions come from a captioning model; here they are sentences with the name of the class.

    Example:
        >>> import torch
        >>> from tether.methods.retrieval_align import ImageSearch
        >>> from tether.training.tensor_batches import TensorBatches
        >>> from tether.models import create
        >>> model, images = create("tiny"), torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
        >>> rows = {"image": images, "label": torch.tensor([0, 0, 1, 1]), "captions": torch.randn(4, 2, model.dim)}
        >>> recipe = ImageSearch(steps=2, realign_steps=0)
        >>> played = recipe.fit_(model, TensorBatches(rows, batch_size=4, seed=0), classes=2)
        >>> any(name.startswith("text.") for name in played.moved)
        False
    """

    takes = "labels"
    gives = "model"
    aims = ("image_search",)
    cost = 250.0
    least = 8

    @checked
    def __init__(
        self,
        *,
        method: Literal["mcip", "2sft"] = "mcip",
        steps: Count = 200,
        realign_steps: Whole = 100,
        batch_size: Count = 32,
        captions: Count = 3,
        caption_weight: NonNegative = 1.0,
        pairs: str | None = None,
        scale: Positive = SCALE,
        margin: Margin = MARGIN,
        learning_rate: PositiveRate = LEARNING_RATE,
        realign_rate: PositiveRate = LEARNING_RATE,
        head_rate: PositiveRate = HEAD_RATE,
        classes_a_step: Count | None = None,
        weight_decay: Rate = WEIGHT_DECAY,
        images: Images = "crops",
    ) -> None:
        """Take the settings.

        Args:
            method: see the class.
            steps: in which the image side moves.
            realign_steps: in which the text side moves after that; 0 leaves them out.
            batch_size: images of a step.
            captions: sentences of its class that an image is held to (``mcip``).
            caption_weight: of that part, beside 1 for the classes.
            pairs: data of images with captions that the text side is brought to; None takes the labelled images with
                a sentence of their class.
            scale: multiplier of cosines.
            margin: an angle, in radians.
            learning_rate: of the image side, at the start; each phase falls to 0 as a cosine.
            realign_rate: of the text side.
            head_rate: of the class vectors.
            classes_a_step: look at so many classes in a step, those of the batch among them; None looks at all.
            weight_decay: of the model's matrices.
            images: random crops, mirrored in half of the cases (wrong for lettering), or as they are.
        """
        self.method, self.steps, self.realign_steps, self.batch_size = method, steps, realign_steps, batch_size
        self.captions, self.caption_weight, self.pairs = captions, caption_weight, pairs
        self.scale, self.margin, self.learning_rate = scale, margin, learning_rate
        self.realign_rate, self.head_rate, self.weight_decay = realign_rate, head_rate, weight_decay
        self.images, self.classes_a_step = images, classes_a_step

    @classmethod
    def suits(cls, case: Case) -> str:
        """See Recipe."""
        if case.classes < 20:
            return ""
        return f"{case.classes} classes teach the image tower to find other images of the same thing"

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)
        check_own_towers(model)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        batches: Batches = given.loader(model, batch_size=self.batch_size, contents=contents_of(self.images))
        if self.pairs is not None and self.realign_steps:
            pairs = Loader(
                open_source(self.pairs, where="pairs"),
                batch_size=self.batch_size,
                image_spec=model.image_spec,
                tokenizer=model.tokenizer,
                seed=given.seed,
                workers=given.workers,
            )
            batches = _InTurn(batches, pairs, first=self.steps)
        rows = self._sentences(model, given) if self.method == "mcip" else None
        return self._plan(model, batches, classes=len(given.classes), captions=rows, seed=given.seed)

    def fit_(
        self, model: DualEncoder, batches: Batches, *, classes: int, pairs: Batches | None = None, seed: int = 0
    ) -> Played:
        """Tune a model in place on batches of one's own, without ``tether adapt``.

        Args:
            model: any encoder of ``tether.load`` with towers of their own.
            batches: of images with ``extra["label"]`` and, for ``mcip``, ``extra["captions"]``; see ``ArcMarginStep``.
            classes: how many.
            pairs: of images with a text each, for the second phase; None goes with ``realign_steps=0``.
            seed: of the class vectors.
        """
        self.check(model)
        if (pairs is None) != (not self.realign_steps):
            raise InputError(f"pairs: expected some for {self.realign_steps} realign_steps, or neither of the two")
        both = batches if pairs is None else _InTurn(batches, pairs, first=self.steps)
        return play(self._plan(model, both, classes=classes, captions=None, seed=seed), model, seed=seed)

    def _plan(
        self,
        model: DualEncoder,
        batches: Batches,
        *,
        classes: int,
        captions: Float[Tensor, "c k d"] | None,
        seed: int,
    ) -> Tuning:
        text, image = move_(model, "text") if self.realign_steps else {}, move_(model, "image")
        state, width = state_parameters(cast(Encoder, model), image) if self.method == "2sft" else ({}, 0)
        first = state or image
        again = text | ({name: one for name, one in image.items() if name not in state} if state and text else {})
        for name, parameter in (image | again).items():
            parameter.requires_grad_(name in first or name in again)
        head = ArcMarginHead(
            width or model.dim,
            classes=classes,
            scale=self.scale,
            margin=self.margin,
            generator=torch.Generator().manual_seed(seed),
        )
        some = self.classes_a_step
        margins = ArcMarginStep(
            reads="state" if state else "embedding",
            caption_weight=self.caption_weight if self.method == "mcip" else 0.0,
            sampler=None if some is None else VocabSampler([1.0] * classes, size=some),
            seed=seed,
        )
        projector: Literal["rests", "moves"] = "moves" if len(again) > len(text) else "rests"
        rest = _Resting(cast(nn.Module, model), first, again, at=self.steps, steps=self.steps + self.realign_steps)
        return Tuning(
            step=_TwoPhases(margins, RealignStep(projector=projector), first=self.steps, captions=captions),
            batches=batches,
            steps=self.steps + self.realign_steps,
            optimizer={"name": "adamw", "lr": self.learning_rate, "betas": [0.9, 0.999], "eps": 1e-8},
            groups=[
                *self._groups(model, first, rate=self.learning_rate),
                *self._groups(model, again, rate=self.realign_rate),
                {"name": CLASSES, "params": [*head.named_parameters()], "weight_decay": 0.0, "lr": self.head_rate},
            ],
            schedule=TwoStages(Cosine(), Cosine(), first=self.steps),
            modules={CLASSES: head},
            kept={"resting": rest},
            after_step=rest.look,
        )

    def _groups(self, model: DualEncoder, names: Collection[str], *, rate: float) -> list[dict[str, Any]]:
        found = []
        if names:
            for group in parameter_groups(cast(nn.Module, model), weight_decay=self.weight_decay):
                some = [pair for pair in group["params"] if pair[0] in names]
                found += [group | {"params": some, "lr": rate}] if some else []
        return found

    def _sentences(self, model: DualEncoder, given: Given) -> Float[Tensor, "c k d"]:
        """Rows of as many sentences of each class."""
        texts: list[str] = []
        for name, prompts in zip(given.classes, given.prompts, strict=True):
            more = (each.replace("{}", name.replace("_", " ")) for each in SENTENCES)
            texts += list(dict.fromkeys([*prompts, *more]))[: self.captions]
        return encode_texts(model, texts).unflatten(0, (len(given.classes), -1))


class _Resting:
    """Sees that what does not move in a phase ends bit for bit as it began; a ``core.protocols.Stateful``."""

    def __init__(self, model: nn.Module, *phases: Collection[str], at: int, steps: int) -> None:
        """Args: model: that is tuned. phases: names of what moves in each. at: first step of the second. steps: all."""
        self._model, self._ends = model, (at, steps)
        self._rest = [[name for name in model.state_dict() if name not in moving] for moving in phases]
        self._digest = self._of(0)

    def _of(self, phase: int) -> str:
        return model_digest(self._model, parts=self._rest[phase])

    def look(self, report: StepReport) -> None:
        """Compare after the last step of a phase."""
        for phase, end in enumerate(self._ends):
            if report.step + 1 == end:
                if self._of(phase) != self._digest:
                    raise RuntimeError(f"image_search: what had to rest in phase {phase + 1} of 2 has changed")
                self._digest = self._of(1)

    def state_dict(self) -> dict[str, Any]:
        """What the parts at rest were at the start of the phase."""
        return {"digest": self._digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self._digest = str(state["digest"])


class _TwoPhases:
    """One step up to some step of the run, and another one from there on; a ``core.protocols.Step``."""

    def __init__(self, one: Step, other: Step, *, first: int, captions: Float[Tensor, "c k d"] | None) -> None:
        self.one, self.other, self.first, self.captions = one, other, first, captions

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See core.protocols.Step."""
        labels = batch.extra.get(LABEL)
        if step >= self.first:
            extra = {} if labels is None else {"labels": labels}  # equal ones are each other's positives
            return self.other(model, replace(batch, extra={**batch.extra, **extra}), step=step, gather=gather)
        assert isinstance(labels, Tensor)
        text, extra = batch.text[:, :0], dict(batch.extra)
        if self.captions is not None:
            extra[CAPTIONS] = self.captions.to(batch.image.device)[labels]
        return self.one(model, Batch(batch.image, text, extra), step=step, gather=gather)


class _InTurn:
    """So many batches of one stream, then those of another; see ``Batches``."""

    def __init__(self, one: Batches, other: Batches, *, first: int) -> None:
        self._streams: Sequence[Batches] = (one, other)
        self._first, self._done = first, 0

    def __iter__(self) -> _InTurn:
        """See Batches."""
        return self

    def __next__(self) -> Batch:
        """See Batches."""
        self._done += 1
        return next(cast(Iterator[Batch], self._streams[self._done > self._first]))

    def state_dict(self) -> dict[str, Any]:
        """See Batches."""
        return {"done": self._done, "streams": [stream.state_dict() for stream in self._streams]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See Batches."""
        self._done = int(state["done"])
        for stream, one in zip(self._streams, state["streams"], strict=True):
            stream.load_state_dict(one)
