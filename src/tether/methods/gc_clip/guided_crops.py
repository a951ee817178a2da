"""Guided cropping: find the object for each likely class, and let crops around it say which class it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Share, Whole, checked
from tether.data.boxes import sound_boxes, window_of
from tether.methods.gc_clip.proposers import Proposer, open_proposer
from tether.models.features.find import tower_of
from tether.tasks.classify.descriptions import Descriptions, described_weights
from tether.tasks.classify.views import Images, ViewHead, encode_windows, image_draws, originals_of, view_spec, whole
from tether.tasks.classify.zero_shot import Scores

Augment = Literal["none", "random", "multi"]

GRID = (14, 14)
"""Patches of an image where the tower shows none: those of a ViT/16 at 224 pixels."""


@checked
def expand_box(box: Float[Tensor, "*n 4"], *, ratio: Share | Tensor, size: tuple[int, int]) -> Float[Tensor, "*m 4"]:
    """A box with a margin: each side goes a share of the way to the image's border.

    Args:
        box: x0, y0, x1, y1 in pixels.
        ratio: 0 leaves the box, 1 is the image; a tensor is broadcast against the boxes' sides.
        size: height and width of the image.

    Example:
        >>> import torch
        >>> from tether.methods.gc_clip.guided_crops import expand_box
        >>> expand_box(torch.tensor([10.0, 10.0, 20.0, 20.0]), ratio=0.5, size=(40, 60)).tolist()
        [5.0, 5.0, 40.0, 30.0]
    """
    (x0, y0, x1, y1), (height, width) = box.unbind(-1), size
    ratio = torch.as_tensor(ratio, dtype=box.dtype, device=box.device)
    sides = ((1 - ratio) * x0, (1 - ratio) * y0, x1 + ratio * (width - x1), y1 + ratio * (height - y1))
    return torch.stack(sides, dim=-1)


def random_boxes(
    box: Float[Tensor, "*k 4"],
    *,
    n: int | None = None,
    size: tuple[int, int],
    generator: torch.Generator | None = None,
    uniforms: Float[Tensor, "*k n 4"] | None = None,
) -> Float[Tensor, "*k n 4"]:
    """Boxes around a box: each side evenly between its own and the image's.

    Args:
        box: x0, y0, x1, y1 in pixels.
        n: how many around each; with ``uniforms`` it is theirs.
        size: height and width of the image.
        generator: of the draws.
        uniforms: draws in [0, 1] for x0, y0, x1, y1 in place of it.
    """
    if uniforms is None:
        if n is None:
            raise InputError("random_boxes: expected n and a generator, or uniforms")
        uniforms = torch.rand(*box.shape[:-1], n, 4, generator=generator, dtype=torch.float64).to(box)
    (height, width), (x0, y0, x1, y1) = size, box[..., None, :].unbind(-1)
    u0, v0, u1, v1 = uniforms.unbind(-1)
    return torch.stack([u0 * x0, v0 * y0, x1 + u1 * (width - x1), y1 + v1 * (height - y1)], dim=-1)


@checked
def crop_boxes(
    boxes: Float[Tensor, "k 4"],
    *,
    size: tuple[int, int],
    augment: Augment = "multi",
    n: Count = 8,
    margin: Share = 0.2,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "k n 4"]:
    """The crops around each box.

    Args:
        boxes: of one image, in pixels.
        size: its height and width.
        augment: ``none`` is one crop with ``margin``, ``multi`` n margins from 0 to 1 evenly, ``random`` n draws.
        n: crops of a box.
        margin: of the one crop.
        generator: of the draws, which all come before the first crop is cut.
    """
    if augment == "random":
        return random_boxes(boxes, n=n, size=size, generator=generator)
    ratios = (
        torch.linspace(0, 1, n, dtype=torch.float64)
        if augment == "multi"
        else torch.tensor([margin], dtype=torch.float64)
    )
    return expand_box(boxes[:, None], ratio=ratios.to(boxes), size=size)


def candidate_classes(logits: Float[Tensor, "*b c"], *, k: int) -> Int[Tensor, "*b k"]:
    """The k best classes, best first, ties to the first; all where there are fewer."""
    return torch.argsort(logits, dim=-1, descending=True, stable=True)[..., :k]


def _proposed(propose: Proposer, image: Tensor, names: Sequence[str]) -> Float[Tensor, "k 4"]:
    """A box for each name; the whole image where none was found."""
    found = [propose(image, name)[0] for name in names]
    nothing = torch.tensor(whole(image), dtype=torch.float64)
    return torch.stack([nothing if box is None else torch.as_tensor(box, dtype=torch.float64) for box in found])


class GuidedCrops(ViewHead):
    """Names images by crops around what was found for each of the likely classes.

    The whole image names k candidates, a proposer gives a box for each, and the crops of all boxes are compared with
    the texts of the candidates. A candidate's score is its mean cosine over all crops, which orders as the paper's
    logits, sums over the boxes, do. A class that is no candidate has its cosine with the whole image, held below the
    candidates.

    Source: arXiv 2309.06581, section 3; there is no public code. The paper's proposer is OWL-ViT; give its folder.

    Attributes:
        ceiling: share of labelled images whose class is among the candidates, once calibrated; no accuracy on them can
            be higher.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.methods.gc_clip.guided_crops import GuidedCrops
        >>> head = GuidedCrops(propose="center", n=2).prepare(create("tiny").eval(), ["cat", "dog"])
        >>> head.predict(torch.randint(0, 256, (1, 3, 120, 90), dtype=torch.uint8)).cosine.shape
        torch.Size([1, 2])
    """

    measure = "cosine"

    @checked
    def __init__(
        self,
        *,
        propose: str | Path | Callable[..., object] = "heat_map",
        k: Count = 5,
        augment: Augment = "multi",
        n: Annotated[int, Ge(1)] = 8,
        margin: Share = 0.2,
        pad: Literal["none", "square", "own"] = "none",
        templates: Sequence[str] | None = None,
        descriptions: Descriptions | None = None,
        seed: Whole = 0,
        batch_size: Count = 64,
    ) -> None:
        """Take the settings.

        Args:
            propose: ``heat_map`` (the encoder's own), ``center``, ``random`` or ``whole``, which are controls at the
                same number of crops; the folder of an OWL-ViT; or a callable, see ``proposers``.
            k: candidates of an image.
            augment: ``none``, ``random`` or ``multi``, as in ``crop_boxes``.
            n: crops of a box; each image costs up to k times as many forwards, and one.
            margin: of the one crop of ``none``.
            pad: ``none`` resizes crops directly, ``square`` fills them up, ``own`` cuts them as the model does.
            templates: as for ``ViewHead``.
            descriptions: as for ``ViewHead``; a class's text is then their mean.
            seed: of ``random``.
            batch_size: crops in one forward.
        """
        super().__init__(templates=templates, descriptions=descriptions, seed=seed, batch_size=batch_size)
        self.propose, self.k, self.augment, self.n, self.margin, self.pad = propose, k, augment, n, margin, pad
        self.ceiling: float | None = None
        self._open: Proposer | None = None
        self._texts = torch.empty(0, 0)
        self._grid = (1, 1)

    def start(self, model: DualEncoder, texts: Sequence[Sequence[str]]) -> float:
        """One point for each class, and what proposes."""
        self.ceiling, self._texts = None, described_weights(model, texts)
        self._open = open_proposer(self.propose, model=model, names=self.classes, texts=self._texts, seed=self.seed)
        self._grid = _patches(model)
        return float(model.logit_scale.detach())

    def predict(self, image: Images, *, boxes: Sequence[Tensor] | None = None) -> Scores:
        """Scores of whole images.

        Args:
            image: uint8 pixels of any size.
            boxes: one (4,) for each image, in its pixels, in place of the proposer's: an oracle's.
        """
        if boxes is None:
            return super().predict(image)
        proposer, given = self._open, originals_of(image)
        if len(boxes) != len(given):
            raise InputError(f"boxes: expected one for each of {len(given)} images, got {len(boxes)}")
        # images are told apart as objects, as two may have the same pixels
        known = {id(one): (box, 1.0) for one, box in zip(given, boxes, strict=True)}
        self._open = lambda image, label: known[id(image)]
        try:
            return super().predict(given)
        finally:
            self._open = proposer

    def scores(self, images: Sequence[UInt8[Tensor, "3 h w"]]) -> Float[Tensor, "b c"]:
        """Mean cosines of the candidates, and below them the whole image's."""
        full = torch.cat(self._encoded(images, [[whole(image)] for image in images], pad="own"))
        alike = self.geometry.similarity(self.geometry.points(full), self._texts)
        chosen = candidate_classes(alike, k=self.k)
        counts, windows = list[int](), []
        for image, row in zip(images, chosen.tolist(), strict=True):
            every = self._crops(image, [self.classes[number] for number in row])
            counts.append(every.shape[1])
            windows.append([window_of(box, size=_size(image)) for box in every.flatten(0, 1)])
        for number, rows in enumerate(self._encoded(images, windows, pad=self.pad)):
            own = chosen[number]
            inner = self.geometry.similarity(self.geometry.points(rows), self._texts[own]).mean(0)
            below = torch.nextafter(inner.min(), torch.tensor(-torch.inf))
            alike[number].clamp_(max=below)
            alike[number, own] = inner
        return alike

    def _crops(self, image: Tensor, names: Sequence[str]) -> Float[Tensor, "k n 4"]:
        assert self._open is not None  # it was prepared
        height, width = size = _size(image)
        least = (height / self._grid[0], width / self._grid[1])
        boxes = sound_boxes(_proposed(self._open, image, names), size=size, least=least)
        draws = image_draws(image, seed=self.seed, salt="guided crops") if self.augment == "random" else None
        return crop_boxes(boxes, size=size, augment=self.augment, n=self.n, margin=self.margin, generator=draws)

    def _encoded(self, images: Sequence[Tensor], windows, *, pad: Literal["none", "square", "own"]) -> list[Tensor]:
        spec = view_spec(self.model, pad=pad)
        return encode_windows(self.model, images, windows, spec=spec, batch_size=self.batch_size)

    def fit(self, scores: Float[Tensor, "n c"], labels: Tensor) -> None:
        """Calibrate, and count how often the class is a candidate."""
        super().fit(scores, labels)
        among = candidate_classes(scores, k=self.k) == labels[:, None]
        self.ceiling = float(among.any(1).double().mean())


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[1], image.shape[2]


def _patches(model: DualEncoder) -> tuple[int, int]:
    """Rows and columns of patches of a whole image."""
    try:
        spec = model.image_spec
        return tower_of(model).grid(torch.zeros(1, 3, *spec.size, dtype=torch.uint8, device=model.logit_scale.device))
    except UnsupportedModelError:
        return GRID
