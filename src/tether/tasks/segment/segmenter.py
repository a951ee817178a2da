"""What every segmenter does, and what those share that compare each patch with class texts."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar, cast, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.geometry import Geometry, check_finite, geometry_of
from tether.core.masks import BACKGROUND, Masks, check_names
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Positive, Share, checked
from tether.core.runtime_protocol import ByAttributes
from tether.core.types import Batch, ImageSpec
from tether.models.features.penultimate import patch_grid
from tether.models.features.windows import Windows, label_map, window_maps
from tether.models.towers.sizes import Resizes
from tether.tasks.classify.prompts import checked_templates, classes_of
from tether.tasks.classify.zero_shot import class_weights
from tether.tasks.segment.registry import SEGMENTERS


@runtime_checkable
class Segmenter(Protocol, metaclass=ByAttributes):
    """Finds the class of each pixel of images of any size.

    Attributes:
        classes: names, in the order of their numbers, once prepared.
        own_windows: how the method looks at images where nobody says otherwise.
    """

    classes: tuple[str, ...]
    own_windows: ClassVar[Windows]

    def prepare(
        self,
        model: DualEncoder,
        prompts: Sequence[str],
        *,
        windows: Windows | None = None,
        support: Iterable[Batch] | None = None,
    ) -> Segmenter:
        """Encode the classes once.

        Args:
            model: any model that ``tether.load`` gives and the method can use.
            prompts: class names.
            windows: how images are looked at; None takes the method's own way.
            support: labelled images, for a method that learns from some; None otherwise.

        Returns:
            This segmenter.
        """
        ...

    def predict(self, images: Sequence[Tensor]) -> list[Masks]:
        """The classes of uint8 images (3, h, w), each in its own size."""
        ...

    def settings(self) -> dict[str, Any]:
        """Plain values that decide its masks beside the model and the image, once prepared."""
        ...


Prepared = TypeVar("Prepared", bound="DenseSegmenter")


class DenseSegmenter(abc.ABC):
    """A segmenter that gives each patch the class whose texts it is most similar to.

    A method of this kind says in ``patches`` what a patch is. It may change ``class_rows``, what is done with patches
    (``logits``, or ``scores`` where it reads more of an image than patches), and the map of a whole image
    (``refine``). Everything else is here: prompts, windows, the mean of overlaps, enlarging and choosing.

    Attributes:
        classes: names, once prepared; ``background`` comes last where the caller did not name it.
        rows: (t, d) points of the model's geometry, once prepared: one for each class, and for the background one for
            each of its words.
        windows: how images are looked at, once prepared.
        own_windows: the method's own way.
        recipe: name of the recipe that trains the head which the method needs; None where it needs none.
        head: head that was given, or None.
        looks_inside: whether the method needs the blocks of a vision transformer.
        learns_texts: whether the texts of the classes come from the head and not from their names.
    """

    own_windows: ClassVar[Windows] = Windows()
    recipe: ClassVar[str | None] = None
    looks_inside: ClassVar[bool] = False
    learns_texts: ClassVar[bool] = False
    head: Any = None

    @checked
    def __init__(
        self,
        *,
        templates: Sequence[str] | None = None,
        temperature: Positive | None = None,
        background: Sequence[str] = (),
        least: Share = 0.0,
        batch_size: Count = 256,
    ) -> None:
        """Choose what the texts are and which pixels belong to no class.

        Args:
            templates: sentences with ``{}`` for the class name; None takes those that suit the model.
            temperature: similarities are divided by it; None takes the model's own scale.
            background: words for what is none of the classes, such as ``ground``; their highest score is that of the
                class ``background``.
            least: probability below which a pixel is ``background``, whatever its best class.
            batch_size: prompts in one forward.
        """
        self.templates = None if templates is None else checked_templates(templates, where="templates")
        self.temperature, self.least, self.batch_size = temperature, least, batch_size
        self.background = classes_of(list(background)) if background else ()
        self.classes: tuple[str, ...] = ()
        self.rows: Float[Tensor, "t d"] = torch.empty(0, 0)
        self.windows = self.own_windows
        self.scale = 1.0
        self.geometry: Geometry | None = None
        self._models: dict[tuple[int, int], tuple[DualEncoder, tuple[int, int]]] = {}  # with its grid, by image size
        self._owners = torch.empty(0, dtype=torch.long)

    def prepare(
        self: Prepared,
        model: DualEncoder,
        prompts: Sequence[str],
        *,
        windows: Windows | None = None,
        support: Iterable[Batch] | None = None,
    ) -> Prepared:
        """See ``Segmenter``; ``support`` must be None, as nothing is learnt.

        Raises:
            InputError: one class alone, a class twice, or more than 255.
            UnsupportedModelError: an encoder that shows no patches, or one without another image size that is needed.
        """
        if support is not None:
            raise InputError("support: this segmenter learns nothing from images; expected None")
        names = classes_of(list(prompts))
        apart = bool(self.background) or self.least > 0
        self.classes = (*names, BACKGROUND) if apart and BACKGROUND not in names else names
        more = self.background_scores() if BACKGROUND in self.classes else 0
        check_names(self.classes)
        texts = [name for name in names if not (self.background and name == BACKGROUND)]
        if len(texts) + len(self.background) < 2:
            raise InputError(
                f"classes: {names[0]!r} alone would be everywhere; name what else there is, as a class or in background"
            )
        check_finite(model)
        self.windows = self.own_windows if windows is None else windows
        model = _at_side(model, self.windows.window)
        self.rows = self.class_rows(model, (*texts, *self.background))
        place = {name: number for number, name in enumerate(self.classes)}
        others = [BACKGROUND] * (len(self.background) + more + (self.least > 0))
        self._owners = torch.tensor([place[name] for name in (*texts, *others)])
        self.geometry = geometry_of(model).detached()
        self.scale = float(model.logit_scale.detach()) if self.temperature is None else 1 / self.temperature
        self._models = {model.image_spec.size: (model, patch_grid(model))}
        with torch.no_grad():
            self.scores(model, _blank(model))  # a tower that cannot be asked so says it now
        return self

    def predict(self, images: Sequence[Tensor]) -> list[Masks]:
        """See ``Segmenter``."""
        if not self._models:
            raise InputError(f"{type(self).__name__}: prepare(model, classes) comes before predict")
        for number, image in enumerate(images):
            if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
                raise InputError(f"image {number}: expected uint8 (3, h, w), got {image.dtype} {tuple(image.shape)}")
        spec, grid = self.looks()
        maps = window_maps(self._dense, images, spec=spec, grid=grid, windows=self.windows)
        return [self._masks(found, image) for found, image in zip(maps, images, strict=True)]

    def settings(self) -> dict[str, Any]:
        """See ``Segmenter``; a method with settings of its own adds them."""
        names = ("classes", "templates", "temperature", "background", "least")
        said = {name: getattr(self, name) for name in names}
        return {"method": SEGMENTERS.name_of(type(self)), **said, "windows": dataclasses.asdict(self.windows)}

    @abc.abstractmethod
    def patches(self, model: DualEncoder, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Patches in the joint space, row by row, not normalised."""

    def class_rows(self, model: DualEncoder, texts: Sequence[str]) -> Float[Tensor, "t d"]:
        """One point for each class name or background word: the mean of its unit prompts."""
        return class_weights(model, texts, templates=self.templates, batch_size=self.batch_size)

    def logits(self, patches: Float[Tensor, "b n d"]) -> Float[Tensor, "b n t"]:
        """How much each patch is like each text: the scaled cosine, or the geometry's similarity."""
        assert self.geometry is not None  # prepare sets it
        points = self.geometry.points(patches.float())
        similar = self.geometry.similarity(points.flatten(0, 1), self.rows.to(points))
        return self.scale * similar.unflatten(0, points.shape[:2])

    def background_scores(self) -> int:
        """How many columns of the background ``scores`` has after those of the texts, if ``background`` is a class."""
        return 0

    def scores(self, model: DualEncoder, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n t"]:
        """Scores of each patch for each text, then ``background_scores`` more; by default ``logits`` of the patches."""
        return self.logits(self.patches(model, image))

    def refine(self, scores: Float[Tensor, "t r c"], image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "t q s"]:
        """The map of a whole image made better, at any resolution; as it is by default."""
        return scores

    def looks(self) -> tuple[ImageSpec, tuple[int, int]]:
        """How a window is prepared, and the rows and columns of its map; after ``prepare``."""
        model, grid = next(iter(self._models.values()))
        return model.image_spec, grid

    def _dense(self, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b t r c"]:
        size = (image.shape[2], image.shape[3])
        if size not in self._models:  # another scale of whole images
            other = resized(next(iter(self._models.values()))[0], size)
            self._models[size] = (other, patch_grid(other))
        model, grid = self._models[size]
        found = self.scores(model, image.to(model.logit_scale.device))
        return found.transpose(1, 2).unflatten(2, grid)

    def _masks(self, scores: Float[Tensor, "t r c"], image: UInt8[Tensor, "3 h w"]) -> Masks:
        scores = self.refine(scores, image).float()
        if self.least > 0:  # the best class has a lower probability just where this is the highest score
            unsure = scores.logsumexp(dim=0, keepdim=True) + math.log(self.least)
            scores = torch.cat([scores, unsure])
        if self._owners.tolist() != list(range(len(self.classes))):
            scores = torch.stack([scores[self._owners == n].amax(dim=0) for n in range(len(self.classes))])
        size = (image.shape[1], image.shape[2])
        return Masks(self.classes, label_map(scores, size=size).numpy(), scores.numpy())


def _blank(model: DualEncoder) -> UInt8[Tensor, "1 3 h w"]:
    return torch.zeros(1, 3, *model.image_spec.size, dtype=torch.uint8, device=model.logit_scale.device)


def _at_side(model: DualEncoder, side: int | None) -> DualEncoder:
    """The model for windows of this side."""
    if side is None or model.image_spec.size == (side, side):
        return model
    return resized(model, (side, side))


def resized(model: DualEncoder, size: tuple[int, int]) -> DualEncoder:
    """The model for images of this size, in eval mode."""
    if not isinstance(model, Resizes):
        raise InputError(f"windows: {type(model).__name__} has no other image sizes; expected its own")
    return cast(DualEncoder, cast(nn.Module, model.resized(image_size=size)).eval())
