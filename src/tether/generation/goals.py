"""What a painted image is moved towards: a CLIP's view of it, compared with texts, and other losses of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, Number, checked
from tether.core.runtime_protocol import ByAttributes
from tether.core.warps import Shares, homography_grid, random_crops, random_perspectives, warped
from tether.generation.canvases.canvas import FRONT, Viewpoint
from tether.generation.seen import unit_images
from tether.losses.directional import Similarity, directional_loss
from tether.models.embed import encode_texts

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True, slots=True)
class Moment:
    """When and how an image is looked at.

    Attributes:
        step: from 0.
        steps: of the whole painting.
        draws: generator of all that is random in this step, on the CPU.
        look: from where the canvas is seen.
    """

    step: int = 0
    steps: int = 1
    draws: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    look: Viewpoint = FRONT


@runtime_checkable
class Goal(Protocol, metaclass=ByAttributes):
    """A loss of images, least where they are as wanted."""

    def __call__(self, image: Tensor, moment: Moment) -> Tensor:
        """A number with gradient to (b, 3, h, w) images in 0 to 1."""
        ...


@runtime_checkable
class ViewMaker(Protocol, metaclass=ByAttributes):
    """What of images a CLIP sees.

    Attributes:
        count: views of each image.
    """

    count: int

    def __call__(self, image: Tensor, *, draws: torch.Generator) -> Tensor:
        """(count * b, 3, h, w) of (b, 3, h, w): the first view of each image, then the second of each, and so on."""
        ...


class RandomViews:
    """Random views of images: in perspective, then a part of it enlarged, drawn explicitly from a generator.

    The two are one warp here, and one interpolation, where CLIPDraw's release (arXiv 2106.14843) has torchvision's
    ``RandomPerspective(0.5, p=1)`` and ``RandomResizedCrop(scale=(0.7, 0.9))`` one after the other.

    Example:
        >>> import torch
        >>> from tether.generation import RandomViews
        >>> RandomViews(count=3)(torch.rand(2, 3, 32, 32), draws=torch.Generator().manual_seed(0)).shape
        torch.Size([6, 3, 32, 32])
    """

    @checked
    def __init__(
        self,
        *,
        count: Count = 4,
        distortion: Annotated[float, Ge(0), Le(0.5)] = 0.5,
        scale: Shares = (0.7, 0.9),
        fill: Annotated[float, Ge(0), Le(1)] | None = 1.0,
    ) -> None:
        """Take the settings.

        Args:
            count: views of each image.
            distortion: of the perspective, see ``core.warps.random_perspectives``.
            scale: least and greatest share of the area that is shown, see ``core.warps.random_crops``.
            fill: brightness beyond the image; None mirrors the image.
        """
        self.count, self._distortion, self._scale, self._fill = count, distortion, scale, fill

    def __call__(self, image: Float[Tensor, "b 3 h w"], *, draws: torch.Generator) -> Float[Tensor, "views 3 h w"]:
        """The first view of each image, then the second of each, and so on; each with a draw of its own."""
        many = self.count * len(image)
        seen = random_perspectives(many, generator=draws, distortion=self._distortion)
        part = random_crops(many, generator=draws, scale=self._scale)
        grid = homography_grid((seen @ part).to(image), size=(image.shape[2], image.shape[3]))
        return warped(image.repeat(self.count, 1, 1, 1), grid, fill=self._fill)


class PlainView:
    """The image itself as its only view: no augmentation."""

    count = 1

    def __call__(self, image: Float[Tensor, "b 3 h w"], *, draws: torch.Generator) -> Float[Tensor, "b 3 h w"]:
        """The images."""
        return image


@runtime_checkable
class Aim(Protocol, metaclass=ByAttributes):
    """A loss of what a CLIP says of views; every aim of a ``ClipGoal`` sees the same views."""

    def __call__(self, rows: Tensor, moment: Moment) -> Tensor:
        """A number with gradient to (n, d) unit rows, the views of one image after those of the others."""
        ...


class TextAim:
    """Minus the cosine to a text, or to the text of the side that is looked at, or the cosine for a negative.

    Summed over views as CLIPDraw has it (arXiv 2106.14843), or their mean.

    Example:
        >>> import torch
        >>> from tether.generation import Moment, TextAim
        >>> rows = torch.eye(3)[:2]
        >>> TextAim(torch.eye(3)[:1], reduction="mean")(rows, Moment()).item()
        -0.5
    """

    @checked
    def __init__(self, rows: Float[Tensor, "texts d"], *, weight: Number = 1.0, reduction: Reduction = "sum") -> None:
        """Take the texts' embeddings.

        Args:
            rows: one text, or one for each part of the circle that a canvas in space is looked at from.
            weight: above 0 leads towards the text, below away from it.
            reduction: over the views.
        """
        _finite_rows(rows)
        self._rows, self._weight, self._reduction = F.normalize(rows, dim=1), weight, reduction

    def __call__(self, rows: Float[Tensor, "n d"], moment: Moment) -> Float[Tensor, ""]:
        """See Aim."""
        text = self._rows[min(int(moment.look.share * len(self._rows)), len(self._rows) - 1)]
        cosines = rows @ text.to(rows)
        return -self._weight * (cosines.sum() if self._reduction == "sum" else cosines.mean())


class DirectionAim:
    """How far images have moved in another direction than from one text to another: StyleGAN-NADA's loss.

    1 - similarity(I - I0, T - T0), where I and I0 are rows of the views and of the source, T and T0 of the texts. The
    similarity is the cosine unless another is given, such as one along a geodesic.

    Example:
        >>> import torch
        >>> from tether.generation import DirectionAim, Moment
        >>> texts, source = torch.eye(3)[:2], torch.eye(3)[2:]
        >>> aim = DirectionAim(texts[:1], texts[1:], source=source)
        >>> round(aim(torch.eye(3)[:1], Moment()).item(), 3)  # 1 - cos(60 degrees)
        0.5
    """

    @checked
    def __init__(
        self,
        text: Float[Tensor, "texts d"],
        source_text: Float[Tensor, "texts d"],
        *,
        source: Float[Tensor, "b d"],
        similarity: Similarity = F.cosine_similarity,
        weight: NonNegative = 1.0,
        reduction: Reduction = "mean",
    ) -> None:
        """Take the embeddings.

        Args:
            text: wanted; one, or one for each image.
            source_text: what the source shows, as many.
            source: rows of the b source images.
            similarity: of (n, d) directions.
            weight: of the whole.
            reduction: over the views.

        Raises:
            InputError: texts that are the same, so that they give no direction, or of another number.
        """
        for rows in (text, source_text, source):
            _finite_rows(rows)
        if text.shape != source_text.shape or len(text) not in (1, len(source)):
            given = f"{tuple(text.shape)} and {tuple(source_text.shape)}"
            raise InputError(f"text, source_text: expected one, or one for each of {len(source)} images, got {given}")
        way = F.normalize(text, dim=1) - F.normalize(source_text, dim=1)
        if float(way.norm(dim=1).min()) < 1e-6:
            raise InputError("text, source_text: expected two texts that differ, got the same, which give no direction")
        self._way, self._source = F.normalize(way, dim=1), F.normalize(source, dim=1)
        self._similarity, self._weight, self._reduction = similarity, weight, reduction

    def __call__(self, rows: Float[Tensor, "n d"], moment: Moment) -> Float[Tensor, ""]:
        """See Aim."""
        away = directional_loss(rows, self._source.to(rows), self._way.to(rows), similarity=self._similarity)
        return self._weight * (away.sum() if self._reduction == "sum" else away.mean())


class ClipGoal:
    """What a CLIP says of views of the image: the sum of its aims. The model gets no gradient of its own.

    Example:
        >>> import torch
        >>> from tether.generation import ClipGoal, Moment, RandomViews
        >>> from tether.models import create
        >>> goal = ClipGoal.of_prompts(create("tiny").eval(), "a red circle", negatives=["a mess"], views=RandomViews())
        >>> goal(torch.rand(1, 3, 40, 40), Moment()).shape
        torch.Size([])
    """

    def __init__(
        self,
        model: DualEncoder,
        aims: Sequence[Aim] | Mapping[str, Aim],
        *,
        views: ViewMaker | None = None,
    ) -> None:
        """Take the parts.

        Args:
            model: any encoder of ``tether.load``, in evaluation mode.
            aims: losses of its rows, at least one.
            views: of each image; default: CLIPDraw's four.

        Raises:
            InputError: no encoder of images, or no aims.
        """
        if not isinstance(model, nn.Module) or not hasattr(model, "image_spec"):
            raise InputError(f"model: expected an encoder of tether.load, got {type(model).__name__}")
        self._aims = list(aims.values()) if isinstance(aims, Mapping) else list(aims)
        if not self._aims:
            raise InputError("aims: expected at least one, got none")
        self.model, self.views = model, RandomViews() if views is None else views

    @classmethod
    @checked
    def of_prompts(
        cls,
        model: DualEncoder,
        prompt: str | Sequence[str],
        *,
        negatives: Sequence[str] = (),
        negative_weight: NonNegative = 0.3,
        views: ViewMaker | None = None,
        reduction: Reduction = "sum",
    ) -> ClipGoal:
        """Towards a text and away from others.

        Args:
            model: any encoder of ``tether.load``.
            prompt: the text; several for the parts of the circle around a canvas in space.
            negatives: what not to show.
            negative_weight: of each.
            views: see the class.
            reduction: see ``TextAim``.

        Raises:
            InputError: a text without words.
        """
        wanted, unwanted = ([texts] if isinstance(texts, str) else list(texts) for texts in (prompt, negatives))
        for name, texts in (("prompt", wanted), ("negatives", unwanted)):
            if not all(isinstance(text, str) and text.strip() for text in texts) or (name == "prompt" and not texts):
                raise InputError(f"{name}: expected a text with words, got {texts!r:.200}")
        with torch.no_grad():
            rows = encode_texts(model, [*wanted, *unwanted])
        aims = [TextAim(rows[: len(wanted)], reduction=reduction)]
        aims += [TextAim(row[None], weight=-negative_weight, reduction=reduction) for row in rows[len(wanted) :]]
        return cls(model, aims, views=views)

    def __call__(self, image: Float[Tensor, "b 3 h w"], moment: Moment) -> Float[Tensor, ""]:
        """See Goal."""
        rows = self.rows(self.views(image, draws=moment.draws))
        return torch.stack([aim(rows, moment) for aim in self._aims]).sum()

    def rows(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Unit embeddings of images in 0 to 1, of any size, with gradient to them."""
        return unit_images(self.model, image)


def _finite_rows(rows: Tensor) -> None:
    if rows.ndim != 2 or not len(rows) or not bool(rows.isfinite().all()):
        raise InputError(f"rows: expected (n, d) finite embeddings, at least one, got {tuple(rows.shape)}")
