"""Heads that look at parts of an image in its original pixels: what they share."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.geometry import COSINE, check_finite, geometry_of
from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Whole, checked
from tether.core.types import Batch, ImageSpec
from tether.data.boxes import Window, cut
from tether.data.images import resize_and_crop
from tether.models.embed import encode_images
from tether.tasks.classify.calibrate import Calibration, fit_scale, labelled_scores
from tether.tasks.classify.descriptions import Descriptions, descriptions_of, sentences_of
from tether.tasks.classify.prompts import checked_templates, classes_of
from tether.tasks.classify.zero_shot import Scores

Images = UInt8[Tensor, "b 3 h w"] | Sequence[UInt8[Tensor, "3 h w"]]
"""Whole images in their own pixels; of a sequence each may have its own size."""

_HASHED = 64


class ViewHead(abc.ABC):
    """Names images by several views of each, cut out of all of their pixels; a ``core.protocols.TaskHead``.

    Texts are encoded once, by ``prepare``. The views of all images that come at a time go through the encoder in
    common batches. An image's draws hang on its own pixels and the seed, not on the images beside it.

    Attributes:
        classes: names, once prepared.
        scale: multiplier of the scores.
        calibration: how it was fitted, or None where it is the method's own.
        measure: what the scores are called.
    """

    measure = "score"

    @checked
    def __init__(
        self,
        *,
        templates: Sequence[str] | None = None,
        descriptions: Descriptions | None = None,
        seed: Whole = 0,
        batch_size: Count = 64,
    ) -> None:
        """Take what all such heads have.

        Args:
            templates: sentences with ``{}`` where a name goes; None takes those that suit the model.
            descriptions: sentences for each class, in place of templates; see ``descriptions.descriptions_of``.
            seed: of what is drawn.
            batch_size: views in one forward.
        """
        if descriptions is not None and templates is not None:
            raise InputError("templates: the classes have descriptions, which are whole sentences; give one of the two")
        self.templates = None if templates is None else checked_templates(templates, where="templates")
        self.descriptions = None if descriptions is None else descriptions_of(descriptions)
        self.seed, self.batch_size = seed, batch_size
        self.classes: tuple[str, ...] = ()
        self.geometry, self.scale = COSINE, 1.0
        self.calibration: Calibration | None = None
        self._model: DualEncoder | None = None

    @property
    def model(self) -> DualEncoder:
        """The encoder.

        Raises:
            InputError: before ``prepare``.
        """
        if self._model is None:
            raise InputError(f"{type(self).__name__}: prepare(model, classes) comes before predict")
        return self._model

    def prepare(self, model: DualEncoder, prompts: Sequence[str], *, support: Iterable[Batch] | None = None) -> Self:
        """Encode the texts of the classes once.

        Args:
            model: any model that ``tether.load`` gives and the method can look into.
            prompts: class names.
            support: labelled images on which the confidence is calibrated, in their own pixels; ``extra["labels"]``
                holds (b,) class numbers.

        Returns:
            This head.

        Raises:
            UnsupportedModelError: a model that the method cannot look into, with the reason.
        """
        self.classes = classes_of(list(prompts))
        check_finite(model)
        self.geometry, self.calibration = geometry_of(model).detached(), None
        texts = sentences_of(self.classes, descriptions=self.descriptions, templates=self.templates, model=model)
        self._model, self.scale = model, self.start(model, texts)
        if support is not None:
            self.fit(*labelled_scores(support, lambda image: self.scores(originals_of(image))))
        return self

    def predict(self, image: Images) -> Scores:
        """Scores of whole images.

        Args:
            image: uint8 pixels of any size; as large as there are, for what is not there cannot be seen larger.
        """
        assert self.model is not None  # it raises before ``prepare``
        found = self.scores(originals_of(image))
        probability = F.softmax(self.scale * found, dim=1)
        return Scores(self.classes, found, probability, self.scale, calibrated=self.calibration is not None)

    @abc.abstractmethod
    def start(self, model: DualEncoder, texts: Sequence[Sequence[str]]) -> float:
        """Take a model and the sentences of each class; gives the multiplier of the scores."""

    @abc.abstractmethod
    def scores(self, images: Sequence[UInt8[Tensor, "3 h w"]]) -> Float[Tensor, "b c"]:
        """Finite scores of all classes."""

    def fit(self, scores: Float[Tensor, "n c"], labels: Tensor) -> None:
        """Take the multiplier under which the labels of scored images are most likely."""
        self.calibration = fit_scale(scores, labels=labels, own=self.scale)
        self.scale = self.calibration.scale


def originals_of(images: Images) -> list[UInt8[Tensor, "3 h w"]]:
    """Whole images one by one, the colours of a pixel side by side in memory: parts of such are resized faster.

    Raises:
        InputError: none, or not uint8 (3, h, w).
    """
    found = list(images)
    if not found:
        raise InputError("images: expected at least one, got none")
    for number, image in enumerate(found):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise InputError(
                f"image {number} (counted from 0): expected uint8 pixels (3, h, w), got {image.dtype} "
                f"{tuple(image.shape)}"
            )
    return [image if image.stride(0) == 1 else torch.stack(image.unbind(), dim=2).permute(2, 0, 1) for image in found]


def view_spec(model: DualEncoder, *, pad: Literal["none", "square", "own"] = "own") -> ImageSpec:
    """How a part of an image becomes an image for a model.

    Args:
        model: whose.
        pad: ``none`` resizes it directly, so that its aspect changes; ``square`` fills its short sides up; ``own`` is
            the model's own way, which may cut off the ends of the longer side.
    """
    spec = model.image_spec.fixed()
    if pad == "own":
        return spec
    return replace(spec, resize="squash" if pad == "none" else "longest", resized=None)


def encode_windows(
    model: DualEncoder,
    images: Sequence[UInt8[Tensor, "3 h w"]],
    windows: Sequence[Sequence[Window]],
    *,
    spec: ImageSpec,
    batch_size: int,
) -> list[Float[Tensor, "n d"]]:
    """Embeddings of windows of each image, not normalised; a window that comes again is encoded once.

    Args:
        model: any model that ``tether.load`` gives.
        images: in their own pixels.
        windows: of each image, as ``data.boxes.window_of`` gives them.
        spec: as ``view_spec`` gives it.
        batch_size: windows of all images in one forward; no more of them are cut and resized at a time.
    """
    jobs = list(dict.fromkeys((number, window) for number, some in enumerate(windows) for window in some))
    place = {job: row for row, job in enumerate(jobs)}

    def batches() -> Iterator[Tensor]:
        for first in range(0, len(jobs), batch_size):
            some = jobs[first : first + batch_size]
            yield torch.stack([resize_and_crop(cut(images[number], window), spec) for number, window in some])

    rows = encode_images(model, batches())
    return [rows[[place[number, window] for window in some]] for number, some in enumerate(windows)]


def whole(image: UInt8[Tensor, "3 h w"]) -> Window:
    """The window of all of an image."""
    return 0, 0, image.shape[2], image.shape[1]


def image_draws(image: UInt8[Tensor, "3 h w"], *, seed: int, salt: str) -> torch.Generator:
    """A generator for one image: the same for the same pixels, whatever else is in its batch."""
    height, width = image.shape[1:]
    sample = image[:, :: -(-height // _HASHED), :: -(-width // _HASHED)].contiguous()
    key = f"{height} {width} {sample.cpu().numpy().tobytes().hex()}"
    return torch.Generator().manual_seed(hash_int(key, seed=seed, salt=salt) >> 1)
