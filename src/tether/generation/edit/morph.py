"""Images morphed from one text to another, similarities taken along geodesics between small subspaces."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, Whole, checked
from tether.generation.canvases.canvas import Canvas
from tether.generation.canvases.pixels import PixelCanvas
from tether.generation.goals import Aim, ClipGoal, DirectionAim, Moment, PlainView, RandomViews
from tether.generation.painting import Painting, paint
from tether.generation.seen import unit_images
from tether.losses.directional import Similarity, directional_loss
from tether.losses.flow_kernel import GeodesicSimilarity
from tether.models.embed import encode_texts

SimilarityName = Literal["cosine", "geodesic"]


@checked
def similarity_of(
    similarity: SimilarityName | Similarity, *, dim: Count = 256, exact: bool = True, group: Count | None = None
) -> Similarity:
    """A similarity by its name, or the one that is given.

    Args:
        similarity: ``cosine``, ``geodesic``, or a call.
        dim: see ``losses.flow_kernel.GeodesicSimilarity``.
        exact: see there.
        group: see there.
    """
    if similarity == "cosine":
        return F.cosine_similarity
    if similarity == "geodesic":
        return GeodesicSimilarity(dim, exact=exact, group=group)
    return similarity


class DirectionalLoss:
    """1 - the mean similarity of where images and texts have moved: the paper's loss between modalities.

    Source: arXiv 2401.10526, section 3; ``DirectionAim`` is the same for ``paint``.

    Example:
        >>> import torch
        >>> from tether.generation.edit import DirectionalLoss
        >>> image, source, text, source_text = torch.randn(4, 6, 32)
        >>> DirectionalLoss(similarity="geodesic")(image, text, source=source, source_text=source_text).shape
        torch.Size([])
    """

    @checked
    def __init__(
        self, similarity: SimilarityName | Similarity = "geodesic", *, dim: Count = 256, exact: bool = False
    ) -> None:
        """Args: similarity: by name, or a call on (b, d) rows. dim, exact: see ``geodesic_kernel``."""
        self.similarity = similarity_of(similarity, dim=dim, exact=exact)

    def __call__(
        self,
        image: Float[Tensor, "b d"],
        text: Float[Tensor, "t d"],
        *,
        source: Float[Tensor, "s d"],
        source_text: Float[Tensor, "t d"],
    ) -> Float[Tensor, ""]:
        """The loss, with gradient to the images' rows.

        Args:
            image: rows, of length 1 as a rule.
            text: wanted; one for all, or one for each.
            source: rows of the images before; one for all, or one for each.
            source_text: what they showed, as many as texts.

        Raises:
            InputError: other shapes, or a text that is its source.
        """
        if text.shape != source_text.shape:
            given = f"{tuple(text.shape)} and {tuple(source_text.shape)}"
            raise InputError(f"text, source_text: expected as many of each, got {given}")
        return directional_loss(image, source, text - source_text, similarity=self.similarity).mean()


class StabilityLoss:
    """1 - the mean similarity of rows of images to a reference: the paper's loss within the modality, and an ``Aim``.

    The release compares rows with themselves, so that value and gradient are nothing. A reference is needed here: rows
    of the source images, or of an earlier step.

    Source: arXiv 2401.10526, section 3; which representation is kept is not said there.

    Example:
        >>> import torch
        >>> from tether.generation.edit import StabilityLoss
        >>> source = torch.nn.functional.normalize(torch.randn(6, 32), dim=1)
        >>> StabilityLoss(source)(source).abs().item() < 1e-5
        True
    """

    @checked
    def __init__(
        self,
        reference: Float[Tensor, "b d"],
        *,
        similarity: SimilarityName | Similarity = "geodesic",
        dim: Count = 256,
        exact: bool = False,
        weight: NonNegative = 1.0,
    ) -> None:
        """Take the reference, without gradient.

        Args:
            reference: rows that are kept near.
            similarity: by name, or a call on (n, d) rows.
            dim: see ``geodesic_kernel``.
            exact: see there.
            weight: of the whole.

        Raises:
            InputError: no finite rows.
        """
        if reference.ndim != 2 or not len(reference) or not bool(reference.isfinite().all()):
            raise InputError(f"reference: expected (b, d) finite rows, at least one, got {tuple(reference.shape)}")
        self._reference, self._weight = reference.detach(), weight
        self.similarity = similarity_of(similarity, dim=dim, exact=exact)

    def __call__(self, rows: Float[Tensor, "n d"], moment: Moment | None = None) -> Float[Tensor, ""]:
        """The loss of as many rows as the reference has, or of several views of each, one view after the other.

        Raises:
            InputError: another number of rows, or rows of another width.
        """
        many = len(self._reference)
        if rows.ndim != 2 or not len(rows) or len(rows) % many or rows.shape[1] != self._reference.shape[1]:
            wanted = tuple(self._reference.shape)
            raise InputError(f"rows: expected those of the reference's {wanted}, got {tuple(rows.shape)}")
        reference = self._reference.to(rows).repeat(len(rows) // many, 1)
        return self._weight * (1 - self.similarity(reference, rows)).mean()


class Morpher:
    """Moves images from what one text says towards another, and holds their rows near where they were.

    Several images are moved at once: the geodesic similarity needs a set of rows, and several views of each help.

    Source: arXiv 2401.10526. The release is the losses only; weights, views and the canvas are ours.

    Example:
        >>> import torch
        >>> from tether.generation.edit import Morpher
        >>> from tether.models import create
        >>> morpher = Morpher(create("tiny").eval(), text="a red cat", source_text="a blue cat", steps=2)
        >>> morpher.fit(torch.rand(2, 3, 32, 32)).image.shape
        torch.Size([2, 3, 32, 32])
    """

    @checked
    def __init__(
        self,
        model: DualEncoder,
        *,
        text: str | tuple[str, ...],
        source_text: str | tuple[str, ...],
        similarity: SimilarityName | Similarity = "geodesic",
        stability: NonNegative = 0.03,
        dim: Count = 256,
        exact: bool = True,
        group: Count | None = 16,
        views: RandomViews | PlainView | None = None,
        steps: Count = 100,
        seed: Whole = 0,
    ) -> None:
        """Take the settings and read the texts.

        Args:
            model: any encoder of ``tether.load``.
            text: wanted; one, or one for each image.
            source_text: what the images show, as many.
            similarity: of both losses.
            stability: weight of ``StabilityLoss``; 0 leaves it out. More than the default holds colours, too, in small
                encoders.
            dim: see ``losses.flow_kernel.GeodesicSimilarity``.
            exact: see there.
            group: rows whose metric is one, of images and their views; see there.
            views: of each image; default: four in perspective, mirrored beyond the image.
            steps: of Adam.
            seed: of the views.

        Raises:
            InputError: texts without words, or another number of them.
        """
        named = {"text": text, "source_text": source_text}
        told = {name: [given] if isinstance(given, str) else list(given) for name, given in named.items()}
        for name, texts in told.items():
            if not texts or not all(one.strip() for one in texts):
                raise InputError(f"{name}: expected a text with words, got {texts!r:.200}")
        if len(told["text"]) != len(told["source_text"]):
            counts = f"{len(told['text'])} and {len(told['source_text'])}"
            raise InputError(f"text, source_text: expected as many of each, got {counts}")
        self.model, self.steps, self.seed, self._stability = model, steps, seed, stability
        self._rows = [F.normalize(encode_texts(model, texts), dim=1) for texts in told.values()]
        self._similarity = similarity_of(similarity, dim=dim, exact=exact, group=group)
        self._views = RandomViews(fill=None) if views is None else views

    def goal(self, image: Float[Tensor, "b 3 h w"]) -> ClipGoal:
        """The losses, for ``paint``.

        Args:
            image: the sources, in 0 to 1.
        """
        with torch.no_grad():
            source = unit_images(self.model, image)
        aims: list[Aim] = [
            DirectionAim(*(rows.to(source) for rows in self._rows), source=source, similarity=self._similarity)
        ]
        if self._stability:
            aims.append(StabilityLoss(source, similarity=self._similarity, weight=self._stability))
        return ClipGoal(self.model, aims, views=self._views)

    def fit(self, image: Float[Tensor, "b 3 h w"], canvas: Canvas | None = None, **settings: Any) -> Painting:
        """Morph images.

        Args:
            image: the sources, in 0 to 1.
            canvas: that shows them; default: their pixels, which move as they like.
            settings: of ``paint``: rates, frames, progress, save and the like.

        Raises:
            InputError: other images, or another number of them than of texts.
        """
        if image.ndim != 4 or image.shape[1] != 3 or not len(image):
            raise InputError(f"image: expected (b, 3, h, w), got {tuple(image.shape)}")
        image = image.to(self.model.logit_scale.device)
        moved = PixelCanvas.of(image) if canvas is None else canvas
        return paint(moved, {"morph": self.goal(image)}, steps=self.steps, seed=self.seed, **settings)
