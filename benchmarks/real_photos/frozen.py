"""Real photographs and real texts as rows of starter's frozen towers, and encoders whose maps learn on these rows."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tether
from tether.core.gather import LOCAL
from tether.core.model_digest import file_digest
from tether.core.protocols import GradClipper, Step
from tether.core.types import Batch, ImageSpec
from tether.data import open_source
from tether.data.images import decode, resize_and_crop
from tether.evaluate.retrieval import recall_at_k
from tether.models.composed.cached import CachedEncoder
from tether.models.composed.encoder import ComposedEncoder
from tether.models.composed.towers import ImageSide, TextSide
from tether.models.embed import encode_images, encode_texts
from tether.models.towers.sizes import Sizes
from tether.optim import AdamW, parameter_groups
from tether.optim.clip import GlobalNorm
from tether.training.loop import Player, Precision, fit
from tether.training.schedules import Cosine, Schedule
from tether.training.steps.module import StepModule
from tether_lab.worlds.domain_shift import Labelled, other_light

HELD_OUT = 200
"""Photographs with captions that no row learns from; each seed draws others."""
CIFAR_TRAIN, CIFAR_TEST, DIM = 1_600, 600, 400
"""The first so many of each file; the first of those also in another light."""
CAPTIONS = 5
SHAPE = (3, 7, 61)
"""A row of 1,280 values and one 0 as if it were an image, which is what tether's parts pass on."""


@dataclass(frozen=True)
class Captioned:
    """Photographs with five captions each.

    Attributes:
        image: (n, 1280) rows of the image tower.
        captions: five of each.
        text: (n, 5, 384) rows of the text tower.
    """

    image: Tensor
    captions: list[tuple[str, ...]]
    text: Tensor


@dataclass(frozen=True)
class Classes:
    """Photographs of ten classes.

    Attributes:
        image: (n, 1280) rows of the image tower.
        label: (n,) place of the class among the names.
    """

    image: Tensor
    label: Tensor


class Photos:
    """All data of the bench; what the towers give lies in the feature cache.

    Attributes:
        digests: SHA-256 of each file by its name.
    """

    def __init__(self, captioned: Path, train: Path, test: Path) -> None:
        """Read and embed the photographs with captions; the others follow when they are asked for."""
        self.towers = CachedEncoder(tether.load("starter"), maps=False)
        self._known: dict[str, Tensor] = {}
        self.spec: ImageSpec = self.towers.image_spec
        source = open_source(str(captioned), where="photographs with captions")
        parts = list(self.towers.rows_of(source, batch_size=32, strict=True))
        captions = [row.texts for rows, _ in parts for row in rows]
        text = self.texts([text for some in captions for text in some]).unflatten(0, (-1, CAPTIONS))
        self.captioned = Captioned(torch.cat([image for _, image in parts]), captions, text)
        self._paths = (train, test)
        self.digests = {path.name: file_digest(path) for path in (captioned, train, test)}

    @functools.cached_property
    def names(self) -> list[str]:
        """Classes of CIFAR-10."""
        return sorted(set(pq.read_table(self._paths[0], columns=["label"])["label"].to_pylist()))

    @functools.cached_property
    def train(self) -> Classes:
        """Photographs of CIFAR-10 to learn from."""
        return self._classes(self._paths[0], count=CIFAR_TRAIN)

    @functools.cached_property
    def test(self) -> Classes:
        """And to ask about."""
        return self._classes(self._paths[1], count=CIFAR_TEST)

    @functools.cached_property
    def dim(self) -> tuple[Classes, Classes]:
        """The first of both, darker and noisy."""
        train, test = (self._classes(path, count=DIM, light=seed) for seed, path in enumerate(self._paths))
        return train, test

    def images(self, pixels: Tensor) -> Tensor:
        """Rows of the image tower."""
        return encode_images(self.towers, pixels.split(32))

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Rows of the text tower; what was asked before is remembered."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, encode_texts(self.towers, new), strict=True))
        return torch.stack([self._known[text] for text in texts])

    def split(self, seed: int) -> tuple[Tensor, Tensor]:
        """Photographs with captions to learn from, and those held out."""
        order = torch.randperm(len(self.captioned.captions), generator=torch.Generator().manual_seed(seed))
        return order[HELD_OUT:], order[:HELD_OUT]

    def _classes(self, path: Path, *, count: int, light: int | None = None) -> Classes:
        table = pq.read_table(path).slice(0, count)
        pixels = torch.stack([decode(one["bytes"]) for one in table["image"].to_pylist()])
        label = torch.tensor([self.names.index(name) for name in table["label"].to_pylist()])
        if light is not None:
            pixels = other_light(Labelled(pixels, label), generator=torch.Generator().manual_seed(light)).pixels
        parts = [torch.stack([resize_and_crop(one, self.spec) for one in part]) for part in pixels.split(256)]
        return Classes(torch.cat([self.images(part) for part in parts]), label)


class KeptImages(ImageSide):
    """An image tower that is given its rows in the shape of an image."""

    def __init__(self, width: int) -> None:
        """Args: width: of the rows."""
        spec = ImageSpec(SHAPE[1:], mean=(0.0,) * 3, std=(1.0,) * 3)
        super().__init__(nn.Identity(), width=width, image_spec=spec, settings={"rows": "image"})

    def forward(self, image: Tensor) -> Tensor:
        """(b, 3, 7, 61) to (b, 1280)."""
        return image.flatten(1)[:, : self.width]

    def at_sizes(self, sizes: Sizes) -> KeptImages:
        """The same; rows have one size."""
        return KeptImages(self.width)


class KeptTexts(TextSide):
    """A text tower that looks its rows up."""

    def __init__(self, rows: Tensor, tokenizer: Places) -> None:
        """Args: rows: of each text. tokenizer: where each stands."""
        super().__init__(
            nn.Embedding.from_pretrained(rows), width=rows.shape[1], tokenizer=tokenizer, settings={"rows": "text"}
        )

    @property
    def text_rows(self) -> int:
        """One place."""
        return 1

    def forward(self, text: Tensor) -> Tensor:
        """(b, 1) places, from 1, to (b, 384)."""
        return self.inner(text[:, 0] - 1)

    def at_sizes(self, sizes: Sizes) -> KeptTexts:
        """The same; rows have one size."""
        return self


class Places:
    """A ``core.protocols.Tokenizer`` that gives a whole text one id."""

    context_length = 1

    def __init__(self, texts: Sequence[str]) -> None:
        """Args: texts: all there are."""
        self.texts = list(dict.fromkeys([*texts, "a"]))  # what parts ask with, to see which parameters a text reaches
        self.vocab_size = len(self.texts) + 1
        self._place = {text: place for place, text in enumerate(self.texts, 1)}

    def __call__(self, texts: Sequence[str], *, long_text: str = "cut") -> Tensor:
        """(b, 1) places."""
        return torch.tensor([[self._place[text]] for text in texts])


def encoder(
    photos: Photos,
    texts: Sequence[str] | Mapping[str, Tensor],
    *,
    seed: int,
    dim: int = 128,
    join: str = "linear",
    scale: float | None = None,
) -> ComposedEncoder:
    """Starter's towers with untrained maps, for images in the shape of ``as_images`` and these texts.

    Args:
        photos: whose towers.
        texts: all that will be asked; with their rows, where these are not the tower's.
        seed: of the maps.
        dim: of the joint space.
        join: kind of the maps.
        scale: of the cosines, which then stays; None learns it.
    """
    places = Places(list(texts))
    given = texts if isinstance(texts, Mapping) else {}
    rows = torch.stack([given[text] if text in given else photos.texts([text])[0] for text in places.texts])
    image, text = KeptImages(photos.captioned.image.shape[1]), KeptTexts(rows, places)
    maps = [{"kind": join, "width": side.width, "dim": dim} for side in (image, text)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ComposedEncoder(image, text, image_map=maps[0], text_map=maps[1])
    for side in (image, text):
        side.lock_("locked")
    if scale is not None:
        nn.init.constant_(model.scale, float(np.log(scale)))
        model.freeze_logit_scale_()
    return model.eval()


def as_images(rows: Tensor) -> Tensor:
    """(n, 1280) rows in the shape of images."""
    return F.pad(rows, (0, 1)).reshape(-1, *SHAPE)


def learn(
    model: ComposedEncoder,
    step: Step,
    batches: Iterator[Batch],
    *,
    steps: int,
    learning_rate: float = 1e-3,
    clipper: GradClipper | None = None,
    schedule: Schedule | None = None,
    optimizer: Any = AdamW,
    losses: list[float] | None = None,
) -> ComposedEncoder:
    """Train what moves of a model in place, by the loop of a run.

    Args:
        model: as ``encoder`` gave it.
        step: from a batch to a loss.
        batches: without end.
        steps: of the optimiser.
        learning_rate: the highest.
        clipper: of gradients; a global norm of 1 if None.
        schedule: of the learning rate; a cosine after a tenth of warm-up if None.
        optimizer: makes one from groups and ``lr``.
        losses: takes the loss of each step.
    """
    moved = optimizer(parameter_groups(model, weight_decay=0.1), lr=learning_rate)
    for group in moved.param_groups:
        group["initial_lr"] = learning_rate
    named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    way = Cosine(warmup=steps // 10) if schedule is None else schedule
    player = Player(step, moved, named, way, GlobalNorm() if clipper is None else clipper)

    def look(report: Any) -> None:
        model.clamp_logit_scale_()
        if losses is not None:
            losses.append(float(report.loss))

    fit(
        StepModule(model.train()),
        [player],
        batches,
        start=0,
        steps=steps,
        accumulate=1,
        precision=Precision(torch.device("cpu"), torch.float32),
        gather=LOCAL,
        on_step=look,
    )
    return model.eval()


def caption_recall(model: ComposedEncoder, photos: Photos, rows: Tensor) -> Mapping[str, float]:
    """Recall at 1 and more among some photographs, each with its five captions."""
    texts = [text for row in rows.tolist() for text in photos.captioned.captions[row]]
    image = F.normalize(encode_images(model, [as_images(photos.captioned.image[rows])]), dim=1)
    owner = torch.arange(len(rows)).repeat_interleave(CAPTIONS)
    return recall_at_k(image, F.normalize(encode_texts(model, texts), dim=1), text_to_image=owner)
