"""Prompts that learn on flawed things of some shapes what is damaged, asked about other shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.adaptation.heads.defect_texts import DefectTextsHead
from tether.adaptation.recipes.defect_rows import DefectRows, read_defects
from tether.adaptation.recipes.moving import rest_
from tether.adaptation.recipes.tuning import Tuning, play
from tether.core.gather import Gather
from tether.core.types import Batch, Features, Loss, Row
from tether.data.blocks import IndexedSource
from tether.data.defect_truths import DefectTruths
from tether.losses.defects import defect_loss
from tether.methods.anomalyclip.recipe import DEEP, PROMPTS, AnomalyPromptsRecipe
from tether.models.features.find import text_anatomy
from tether.models.features.value_attention import ValueRows, text_maps, text_probabilities
from tether.models.texts.defect_texts import DefectTexts
from tether.models.texts.prompts import Prompts
from tether.models.towers.clip import Clip
from tether.models.towers.frozen_copy import frozen_copy
from tether.tasks.anomaly import AnomalyclipDetector, Detector
from tether.tasks.anomaly.value_looks import blurred
from tether.training.steps.module import InsideStep, StepModule
from tether.training.tensor_batches import TensorBatches
from tether_lab.lab.lab import Lab
from tether_lab.worlds.flaw_figures import flaw_figures
from tether_lab.worlds.flawed_things import SEEN, TEMPLATES, UNSEEN, Flawed, base, flawed
from tether_lab.worlds.flaws_within import flat, within_flawed

LEARN, ASKED, EPOCHS = 400, 400, 10
BLOCKS = 2
"""Last blocks that are changed, for sentences as for what is learnt: the best of five ways for both on pilot seeds."""
TEMPERATURE = 0.02
"""Of learning, the best of 0.07 and 0.02 on pilot seeds; areas under curves of sentences do not depend on it."""
FLAT = ("pixel_auroc", "pixel_ap")
"""Figures of maps that are flat: of their places they say nothing else."""
WORDS = {"normal": "{}.", "defective": "damaged {}."}


class FlawedImages(IndexedSource):
    """Flawed things as a source, with their masks in the column ``mask``."""

    def __init__(self, images: Flawed, *, name: str) -> None:
        """Args: images: drawn. name: of the draw and its seed."""
        self.name, self.version, self._images = f"flawed things, {name}", f"{len(images)} images", images

    def __len__(self) -> int:
        """How many."""
        return len(self._images)

    def row(self, index: int) -> Row:
        """See IndexedSource."""
        one, mask = self._images.pixels[index], self._images.masks[index].numpy()
        return Row(str(index), one.permute(1, 2, 0).contiguous().numpy(), meta={"mask": mask})


@dataclass(frozen=True, slots=True)
class FlawBench:
    """What all arms of a seed share.

    Attributes:
        lab: seed and budget.
        model: the CLIP, at rest.
        learn: images with masks to learn from.
        asked: images to be asked about, of other shapes.
    """

    lab: Lab
    model: Clip
    learn: Flawed
    asked: Flawed

    def rows(self, recipe: AnomalyPromptsRecipe) -> DefectRows:
        """What a recipe learns from."""
        source = FlawedImages(self.learn, name=f"learn, seed {self.lab.seed}")
        return read_defects(recipe.reader(self.model), source, DefectTruths())

    def said(self, detector: Detector) -> tuple[Float[Tensor, " n"], Float[Tensor, "n r c"]]:
        """A detector's scores and maps of the images of other shapes."""
        found = detector.prepare(self.model, "object").predict(list(self.asked.pixels))
        return torch.tensor([one.score for one in found]), torch.stack([torch.from_numpy(one.values) for one in found])

    def measured(self, scores: Float[Tensor, " n"], maps: Float[Tensor, "n r c"]) -> dict[str, float]:
        """See ``flaw_figures``; ``within`` is of ``flaws_within``."""
        return flaw_figures(self.asked, scores, maps) | {"within": within_flawed(self.asked, maps)}

    def figures(self, detector: Detector) -> dict[str, float]:
        """How well a detector finds the flaws of other shapes."""
        return self.measured(*self.said(detector))


def prepare(lab: Lab) -> FlawBench:
    """The images and the CLIP of a seed."""
    learn = flawed(lab, "learn", lab.steps(LEARN, 16), SEEN)
    return FlawBench(lab, frozen_copy(base(lab)), learn, flawed(lab, "asked", lab.steps(ASKED, 16), UNSEEN))


def recipe_of(lab: Lab, *, blocks: int = BLOCKS) -> AnomalyPromptsRecipe:
    """The recipe at this bed's size."""
    return AnomalyPromptsRecipe(epochs=lab.steps(EPOCHS, 1), blocks=blocks, temperature=TEMPERATURE)


def sentences() -> AnomalyclipDetector:
    """WinCLIP's states in sentences that the CLIP has read, on the same features."""
    return AnomalyclipDetector(templates=TEMPLATES, blocks=BLOCKS)


def sentence_figures(bench: FlawBench) -> dict[str, dict[str, float]]:
    """Figures of sentences, and of maps that have the image's own score by them in every place (``image``)."""
    scores, maps = bench.said(sentences())
    apart = flaw_figures(bench.asked, scores, flat(scores, bench.model.image_spec.size))
    return {"sentences": bench.measured(scores, maps), "image": {name: apart[name] for name in FLAT}}


def learnt(bench: FlawBench, recipe: AnomalyPromptsRecipe) -> AnomalyclipDetector:
    """What ``tether adapt --recipe anomaly-prompts`` makes."""
    tuning = recipe.describe(bench.model, bench.rows(recipe), seed=bench.lab.seed)
    return AnomalyclipDetector(head=_texts(tuning, bench))


def free(bench: FlawBench, recipe: AnomalyPromptsRecipe) -> AnomalyclipDetector:
    """The same with two vectors of the joint space in place of prompts, which begin as the sentences."""
    tuning = recipe.describe(bench.model, bench.rows(recipe), seed=bench.lab.seed)
    start = sentences().prepare(bench.model, "object").texts
    rows = _FreeTexts(F.normalize(start, dim=1))

    def finish() -> Any:
        return DefectTextsHead(DefectTexts(rows().pooled, temperature=recipe.temperature, **recipe.reading))

    played = play(replace(tuning, modules={PROMPTS: rows}, finish=finish), bench.model, seed=bench.lab.seed)
    return AnomalyclipDetector(head=cast(DefectTextsHead, played.outcome).inner)


def named_figures(bench: FlawBench, recipe: AnomalyPromptsRecipe) -> dict[str, float]:
    """The same with prompts that name the shape, as ``circle.`` and ``damaged circle.``: figures on other shapes."""
    model, rows, reader = bench.model, bench.rows(recipe), recipe.reader(bench.model)
    rest_(model)
    prompts = _NamedPrompts(model, SEEN, recipe, seed=bench.lab.seed)
    shapes = torch.tensor([SEEN.index(name.split()[-1]) for name in bench.learn.names])
    seed, size = bench.lab.seed, min(recipe.batch_size, len(shapes))
    tuning = replace(
        recipe.describe(model, rows, seed=seed),
        step=_NamedStep(reader, recipe),
        batches=TensorBatches({**rows.tensors(), "shape": shapes}, batch_size=size, seed=seed),
        modules={PROMPTS: prompts},
        finish=None,
    )
    play(tuning, model, seed=seed)
    with torch.no_grad():
        other = _NamedPrompts(model, UNSEEN, recipe, seed=seed)
        other.load_state_dict(prompts.state_dict())
        texts, scores, maps = other(), [], []
        for image, name in zip(bench.asked.pixels, bench.asked.names, strict=True):
            own = texts[UNSEEN.index(name.split()[-1])]
            seen = reader.features(reader.encode_image(image[None]).pooled)
            scores.append(text_probabilities(seen.image, own, temperature=recipe.temperature)[0, 1])
            size_of = reader.image_spec.size
            found = text_maps(seen.patches, own, grid=reader.grid, size=size_of, temperature=recipe.temperature)
            maps.append(torch.from_numpy(blurred(found[:, 0, 1].mean(dim=0).numpy())))
    return bench.measured(torch.stack(scores), torch.stack(maps))


class _FreeTexts(nn.Module):
    """Two vectors of the joint space."""

    def __init__(self, start: Float[Tensor, "2 d"]) -> None:
        super().__init__()
        self.rows = nn.Parameter(start.clone())

    def forward(self) -> Features:
        return Features(self.rows)


class _NamedPrompts(nn.Module):
    """Vectors of each state before the names of shapes, which share them."""

    def __init__(self, model: Clip, names: Sequence[str], recipe: AnomalyPromptsRecipe, *, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        deep = min(DEEP, len(text_anatomy(model).blocks) - 1)
        more: Mapping[str, Any] = {"context": recipe.length, "deep": deep, "deep_length": recipe.deep_length}
        self.states = nn.ModuleList(
            Prompts(model, {name: words.format(name) for name in names}, generator=generator, **more)
            for words in WORDS.values()
        )

    def forward(self) -> Float[Tensor, "k 2 d"]:
        return F.normalize(torch.stack([one().pooled for one in self.states], dim=1), dim=2)


class _NamedStep(InsideStep):
    """The recipe's loss with the texts of each image's own shape."""

    def __init__(self, reader: ValueRows, recipe: AnomalyPromptsRecipe) -> None:
        self._reader, self._recipe = reader, recipe

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
        extra = {name: cast(Tensor, value) for name, value in batch.extra.items()}
        texts = module.heads[PROMPTS]()[extra["shape"]]
        seen, recipe = self._reader.features(batch.image), self._recipe
        more = {"grid": self._reader.grid, "size": self._reader.image_spec.size, "temperature": recipe.temperature}
        maps = [text_maps(seen.patches[:, n : n + 1], own, **more) for n, own in enumerate(texts)]
        logits = torch.einsum("bd,bkd->bk", F.normalize(seen.image, dim=1), texts) / recipe.temperature
        terms = defect_loss(
            logits,
            torch.cat(maps, dim=1),
            labels=extra["label"],
            masks=extra["mask"],
            masked=extra["masked"],
            pixels=recipe.pixels,
        )
        return Loss(terms.total)


def _texts(tuning: Tuning, bench: FlawBench) -> DefectTexts:
    outcome = play(tuning, bench.model, seed=bench.lab.seed).outcome
    assert outcome is not None
    return cast(DefectTextsHead, outcome.head).inner
