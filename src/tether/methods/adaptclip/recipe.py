"""Defects of things never seen: adapters on a frozen encoder learn from images of other things with defect masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, cast

import torch
from annotated_types import Ge, Lt, MinLen
from jaxtyping import Int
from torch import Tensor

from tether.adaptation.heads.defect_texts import CLASSES
from tether.adaptation.recipes.defect_rows import DefectRows, read_defects
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import rest_
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.refusals import check_cosine_model, check_text_tower
from tether.adaptation.recipes.tuning import Outcome, Tuning
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.printable import quoted
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Layer, PositiveRate, PositiveSingle, Whole, checked
from tether.core.types import Batch, Loss
from tether.data.defect_truths import NORMAL_LABELS, DefectTruths
from tether.losses.defects import defect_loss
from tether.methods.adaptclip.adapters import AdaptClip, TrainedAdapters
from tether.methods.adaptclip.head import AnomalyAdaptersHead
from tether.models.embed import encode_texts
from tether.models.features.find import anatomy_of
from tether.models.features.value_attention import TEMPERATURE, ValueRows
from tether.models.texts.defect_states import DEFECTIVE, NORMAL, TEMPLATES
from tether.models.texts.prompts import Prompts
from tether.training.schedules import Constant
from tether.training.steps.module import InsideStep, StepModule
from tether.training.tensor_batches import TensorBatches

ADAPTERS, PROMPTS = "adapters", "prompts"
QUARTERS = 4
"""Blocks whose patches are compared: those that end the quarters of the tower."""


class AnomalyAdaptersRecipe(TuneRecipe):
    """Adapters for defects, for ``tether detect --with adaptclip --head``, of things that it never sees.

    Images of some things, with masks of their defects, are enough; both towers rest. Features are moved and compared
    with fixed texts of states, prompts without a name are learnt, and each image is compared with a good one of the
    same thing, drawn at random. No good image is kept: the head is for other things.

    Source: AdaptCLIP (arXiv 2505.09926) and its released code: Adam at 1e-3 with decays of 0.5 and 0.999, 15 passes in
    batches of 8, one good image each. It differs in that the norm of the patches' adapter does not see the class token.
    """

    takes = "images"
    gives = "head"
    aims = ("defects",)
    used_by = "detect"
    used_as = "--with adaptclip --head {folder} --good GOOD --out report"
    simpler = "tether detect --with patches --good GOOD, which learns nothing"
    cost = 100.0

    @checked
    def __init__(
        self,
        *,
        masks: str | None = None,
        column: str = "mask",
        label: str = "label",
        normal: Sequence[str] = NORMAL_LABELS,
        product: str | None = None,
        name: str = "object",
        good_states: Annotated[Sequence[str], MinLen(1)] = NORMAL,
        bad_states: Annotated[Sequence[str], MinLen(1)] = DEFECTIVE,
        templates: Annotated[Sequence[str], MinLen(1)] = TEMPLATES,
        length: Count = 12,
        layers: Annotated[Sequence[Layer], MinLen(1)] | None = None,
        blocks: Whole | None = None,
        post_norm: bool = False,
        image_size: Count | None = None,
        reduction: Count = 4,
        hidden: Annotated[int, Ge(2)] = 128,
        context: bool = True,
        apart: bool = True,
        shots: Count = 1,
        temperature: PositiveSingle = TEMPERATURE,
        epochs: Count = 15,
        batch_size: Annotated[int, Ge(2)] = 8,
        learning_rate: PositiveRate = 1e-3,
        momentum: Annotated[float, Ge(0), Lt(1)] = 0.5,
    ) -> None:
        """Take the settings.

        Args:
            masks: folder with the masks; None takes ``column``.
            column: of the data, with the masks.
            label: column of the word for an image without a mask; of a folder of images it is the folder inside.
            normal: words for images without a defect.
            product: column that says which thing an image shows, so that it is compared with good images of the same;
                None takes all for one thing.
            name: that fixed texts give to all things.
            good_states: with ``{}`` for the name.
            bad_states: likewise.
            templates: sentences with ``{}`` for the state.
            length: vectors of each learnt prompt.
            layers: blocks whose patches are compared, texts meet the last one's; None takes the ends of the quarters of
                the tower.
            blocks: that are changed, see ``models.features.value_attention.value_attention_features``.
            post_norm: likewise.
            image_size: side in pixels; another one than the model's resizes its positions.
            reduction: see ``models.heads.defect_adapters.ResidualAdapter``.
            hidden: see ``models.heads.defect_adapters.PromptQueryAdapter``.
            context: likewise.
            apart: see ``methods.adaptclip.adapters.AdaptClip``.
            shots: good images that each image is compared with.
            temperature: cosines with texts are divided by it.
            epochs: passes over the images.
            batch_size: images of a step.
            learning_rate: of Adam, constant.
            momentum: of Adam's mean of gradients.
        """
        self.truths = {"folder": masks, "column": column, "label": label, "normal": tuple(normal)}
        self.columns, self.product = self.truths, product
        self.states = tuple(
            [template.replace("{}", state.replace("{}", name)) for state in states for template in templates]
            for states in (good_states, bad_states)
        )
        self.length, self.layers, self.temperature = length, layers, temperature
        self.reading = {"blocks": blocks, "post_norm": post_norm, "image_size": image_size}
        self.shape: dict[str, Any] = {"reduction": reduction, "hidden": hidden, "context": context, "apart": apart}
        self.shots, self.epochs, self.batch_size = shots, epochs, batch_size
        self.learning_rate, self.momentum = learning_rate, momentum

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)
        check_text_tower(model)
        self.reader(model)
        self.prompts(model, seed=0)

    def reader(self, model: DualEncoder) -> ValueRows:
        """The model as the adapters read it."""
        return ValueRows(model, layers=self._layers(model), **self.reading)

    def prompts(self, model: DualEncoder, *, seed: int) -> Prompts:
        """The prompts as they are drawn."""
        return Prompts(
            model,
            dict.fromkeys(CLASSES, "."),
            context=self.length,
            per_class=True,
            generator=torch.Generator().manual_seed(seed),
        )

    def _layers(self, model: DualEncoder) -> tuple[int, ...]:
        if self.layers is not None:
            return tuple(self.layers)
        depth = len(anatomy_of(model).opened().blocks)
        return tuple(dict.fromkeys(max(1, round(depth * part / QUARTERS)) - 1 for part in range(1, QUARTERS + 1)))

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        truths, reader = DefectTruths(**self.truths), self.reader(model)
        rows = read_defects(
            reader,
            given.source,
            truths,
            product=self.product,
            workers=given.workers,
            on_progress=given.on_progress,
        )
        return self.describe(model, rows, seed=given.seed)

    def describe(self, model: DualEncoder, rows: DefectRows, *, seed: int) -> Tuning:
        """The tuning on rows that are read already.

        Raises:
            InputError: a thing of which there is no good image.
        """
        rest_(model)
        reader = self.reader(model)
        with torch.no_grad():
            fixed = torch.stack([encode_texts(model, one).mean(dim=0) for one in self.states])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapters = AdaptClip(fixed, layers=len(reader.layers), temperature=self.temperature, **self.shape)
        adapters.to(model.logit_scale.device)
        prompts = self.prompts(model, seed=seed)

        @torch.no_grad()
        def finish() -> Outcome:
            adapters.learnt.copy_(prompts().pooled)
            return Outcome(head=AnomalyAdaptersHead(TrainedAdapters(adapters, reader.layers, **self.reading)))

        count, batch_size = len(rows.rows), min(self.batch_size, len(rows.rows))
        return Tuning(
            step=AdaptersStep(reader, rows, shots=self.shots, seed=seed),
            batches=TensorBatches({**rows.tensors(), "number": torch.arange(count)}, batch_size=batch_size, seed=seed),
            steps=self.epochs * (count // batch_size),
            optimizer={"name": "adamw", "lr": self.learning_rate, "betas": (self.momentum, 0.999), "eps": 1e-8},
            schedule=Constant(),
            training=[adapters],
            modules={ADAPTERS: adapters, PROMPTS: prompts},
            finish=finish,
        )


class AdaptersStep(InsideStep):
    """The sum of what all adapters get wrong, of images each with good ones drawn for it; a ``core.protocols.Step``."""

    @checked
    def __init__(self, reader: ValueRows, rows: DefectRows, *, shots: Count = 1, seed: int = 0) -> None:
        """Find the good images of each thing.

        Args:
            reader: that the rows are of.
            rows: all of them.
            shots: good images of an image; none is its own, unless it is the only one.
            seed: of the draws.

        Raises:
            InputError: a thing without a good image.
        """
        self.reader, self.shots, self.seed = reader, shots, seed
        self.rows, self.products = rows.rows, rows.products
        self.good = {
            product: torch.tensor(
                [number for number, one in enumerate(rows.products) if one == product and not rows.labels[number]],
                dtype=torch.int64,
            )
            for product in dict.fromkeys(rows.products)
        }
        if without := [product for product, numbers in self.good.items() if not len(numbers)]:
            raise InputError(f"product {quoted(without[0])}: expected an image without a defect, got none")

    def drawn(self, numbers: Int[Tensor, " b"], *, step: int) -> Int[Tensor, "b k"]:
        """The numbers of the good images of each image in a step."""
        generator = torch.Generator().manual_seed(hash_int(str(step), seed=self.seed, salt="good images") >> 1)
        uniform = torch.rand(len(numbers), self.shots, generator=generator)
        found = []
        for number, draws in zip(numbers.tolist(), uniform, strict=True):
            some = self.good[self.products[number]]
            others = some[some != number] if len(some) > 1 else some
            found.append(others[(draws * len(others)).long()])
        return torch.stack(found)

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
        reader, adapters = self.reader, cast(AdaptClip, module.heads[ADAPTERS])
        numbers = self.drawn(cast(Tensor, batch.extra["number"]).cpu(), step=step)
        good = reader.features(self.rows[numbers.flatten()].to(batch.image.device)).patches
        seen, places = reader.features(batch.image), {"grid": reader.grid, "size": reader.image_spec.size}
        learnt = module.heads[PROMPTS]().pooled
        compared = adapters.compare(seen.patches, good.unflatten(1, numbers.shape), **places)
        answers = [(one.logits, one.maps) for one in adapters.by_texts(seen, learnt=learnt, **places)]
        answers += zip(compared.logits, compared.maps, strict=True)
        labels, masks, masked = (cast(Tensor, batch.extra[name]) for name in ("label", "mask", "masked"))
        terms = [
            defect_loss(logits, maps[None], labels=labels, masks=masks, masked=masked, pixels=1.0)
            for logits, maps in answers
        ]
        image = torch.stack([one.image for one in terms]).sum()
        total = torch.stack([one.total for one in terms]).sum()
        return Loss(total, {"image": image.detach(), "pixels": (total - image).detach()})
