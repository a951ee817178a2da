"""One image restyled by words, its object and its ground each by its own, so that the style does not spill over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, Number, Part, PositiveRate, Whole, checked
from tether.generation.edit.style_goals import (
    FeatureContent,
    PatchGoal,
    RegionGoal,
    tv4,
)
from tether.generation.edit.style_net import StyleNetCanvas
from tether.generation.goals import Goal
from tether.generation.painting import Painting, paint
from tether.generation.seen import unit_images
from tether.models.embed import encode_texts

Content = Callable[..., Goal]
"""``FeatureContent``, or another class with its constructor: an encoder, a source (1, 3, h, w), and a ``weight``."""


@checked
@dataclass(frozen=True, kw_only=True, slots=True)
class StyleWeights:
    """Of the terms; the defaults are the release's.

    Attributes:
        patch: of crops.
        object: of the view of the object alone.
        ground: of the view of the ground alone.
        content: of the encoder's early features.
        smooth: of the total variation.
    """

    patch: NonNegative = 9000.0
    object: NonNegative = 500.0
    ground: NonNegative = 500.0
    content: NonNegative = 600.0
    smooth: NonNegative = 2e-3


@dataclass(frozen=True, slots=True)
class StyleResult:
    """What came of it.

    Attributes:
        image: (3, h, w) in 0 to 1.
        painting: losses and frames on the way.
        inside: mean absolute change of pixels of the object; of all pixels where there is no mask.
        outside: the same of the ground; 0 where there is no mask.
    """

    image: Float[Tensor, "3 h w"]
    painting: Painting
    inside: float
    outside: float

    @property
    def spill(self) -> float:
        """Change of the ground over that of the object."""
        return self.outside / max(self.inside, 1e-9)


class SemanticStyler:
    """Restyles one image: a small network is trained so that crops and regions move, for a CLIP, as texts do.

    With a mask, crops of object and ground follow texts of their own, and each region, all else black, is looked at as
    a whole. A ground without a text is held where it was and no crop of it is asked for anything. Without a mask it is
    CLIPStyler (arXiv 2112.00374): one text for all crops and the whole image.

    Source: Sem-CS (arXiv 2307.05934), clipstyler_spectral_globfb.py of chandagrover/sem-cs. There every crop follows
    the object's text, which ``ask="object"`` does, too, and source rows go through a softmax (``source_softmax``).

    Example:
        >>> import torch
        >>> from tether.generation.edit import SemanticStyler
        >>> from tether.models import create
        >>> mask = torch.zeros(32, 32, dtype=torch.bool)
        >>> mask[8:24, 8:24] = True
        >>> styler = SemanticStyler(create("tiny").eval(), object_text="a red cat", mask=mask, crops=8, steps=2)
        >>> styler.fit(torch.rand(3, 32, 32)).image.shape
        torch.Size([3, 32, 32])
    """

    @checked
    def __init__(
        self,
        model: DualEncoder,
        *,
        object_text: str,
        ground_text: str | None = None,
        source_text: str = "a photo",
        mask: Bool[Tensor, "h w"] | None = None,
        weights: StyleWeights | None = None,
        threshold: Number = 0.7,
        object_scale: NonNegative = 0.3,
        content: Content = FeatureContent,
        crops: Count = 64,
        crop: Part = 0.25,
        steps: Count = 400,
        ask: Literal["own", "object"] = "own",
        source_softmax: bool = False,
        templates: Sequence[str] = ("{}",),
        rate: PositiveRate = 5e-4,
        widths: tuple[Count, ...] = (16, 32, 64),
        distortion: Annotated[float, Ge(0), Le(0.5)] = 0.5,
        seed: Whole = 0,
    ) -> None:
        """Take the settings and read the texts.

        Args:
            model: any encoder of ``tether.load``.
            object_text: what the object, or without a mask the image, shall look like.
            ground_text: what the ground shall look like; None leaves it.
            source_text: what it looks like now.
            mask: True where the object is; some, but not all.
            weights: of the terms.
            threshold: of a crop's distance, below which it is left alone.
            object_scale: of crops of the object.
            content: makes the term that holds the content, such as ``FeatureContent`` with other blocks.
            crops: of each step.
            crop: their side, as a share of the image's shorter one.
            steps: of Adam.
            ask: whether a crop follows the text of its ``own`` region, or all follow the ``object``'s as released.
            source_softmax: take a softmax over the source's rows, as released.
            templates: sentences with ``{}`` in place of each text; their embeddings are averaged as they are.
            rate: Adam's, halved every 100 steps.
            widths: of the network, see ``StyleNetCanvas``.
            distortion: of the crops' perspective.
            seed: of network and crops.

        Raises:
            InputError: a text without words, one that means what the source's does, a ground's text without a mask, or
                a mask of all or nothing.
        """
        if mask is not None and (mask.dtype != torch.bool or mask.ndim != 2 or bool(mask.all()) or not mask.any()):
            part = "all" if mask.ndim == 2 and bool(mask.all()) else "nothing"
            got = f"one of {part}" if mask.dtype == torch.bool and mask.ndim == 2 else f"{mask.dtype} {mask.ndim}-d"
            raise InputError(f"mask: expected (h, w) booleans that mark some of the image, but not all, got {got}")
        if ground_text is not None and mask is None:
            raise InputError("ground_text: expected a mask with it, that says where the object is")
        self.model, self.mask, self.steps, self.seed = model, mask, steps, seed
        self.weights = StyleWeights() if weights is None else weights
        self._content, self._softmax, self._rate, self._ask = content, source_softmax, rate, ask
        self._widths = widths
        source, thing = (
            text_row(model, text, templates=templates, name=name)
            for name, text in (("source_text", source_text), ("object_text", object_text))
        )
        self._object_way, self._ground_way = _way(thing, source, name="object_text"), None
        if ground_text is not None:
            row = text_row(model, ground_text, templates=templates, name="ground_text")
            self._ground_way = _way(row, source, name="ground_text")
        self._crops: dict[str, Any] = {
            "threshold": threshold, "object_scale": object_scale, "crops": crops, "crop": crop,
            "distortion": distortion,
        }  # fmt: skip

    def canvas(self, image: Float[Tensor, "3 h w"]) -> StyleNetCanvas:
        """The network, new."""
        return StyleNetCanvas(image, widths=self._widths, rate=self._rate, seed=self.seed)

    def goals(self, image: Float[Tensor, "3 h w"]) -> Mapping[str, Goal]:
        """The terms, for ``paint``.

        Raises:
            InputError: a mask of another size.
        """
        mask, source = self.mask, image[None]
        if mask is not None and mask.shape != image.shape[1:]:
            raise InputError(f"mask: expected the image's {tuple(image.shape[1:])}, got {tuple(mask.shape)}")
        thing, ground = self._object_way, self._ground_way
        with torch.no_grad():
            row = unit_images(self.model, source)
        found: dict[str, Goal] = {
            "patches": PatchGoal(
                self.model, source=row.softmax(dim=1) if self._softmax else row, object_way=thing,
                ground_way=thing if self._ask == "object" and mask is not None else ground, mask=mask,
                weight=self.weights.patch, **self._crops,
            ),
            "content": self._content(self.model, source, weight=self.weights.content),
            "smoothness": lambda image, moment: self.weights.smooth * tv4(image),
        }  # fmt: skip
        regions: dict[str, tuple[Tensor | None, Tensor | None, float]]
        regions = {"object": (thing, mask, self.weights.object)}
        if mask is not None:
            regions["ground"] = (ground, ~mask, self.weights.ground)
        for name, (way, region, weight) in regions.items():
            found[name] = RegionGoal(
                self.model, source, region=region, way=way, source_softmax=self._softmax, weight=weight
            )
        return found

    def fit(self, image: Float[Tensor, "3 h w"], **settings: Any) -> StyleResult:
        """Restyle an image.

        Args:
            image: in 0 to 1.
            settings: of ``paint``: frames, progress, save and the like.

        Raises:
            InputError: no such image, or a mask of another size.
        """
        canvas = self.canvas(image).to(self.model.logit_scale.device)
        shown = canvas.image
        return self.result(image, paint(canvas, self.goals(shown), steps=self.steps, seed=self.seed, **settings))

    def result(self, image: Float[Tensor, "3 h w"], painting: Painting) -> StyleResult:
        """What a painting of ``canvas`` came to."""
        change = (painting.image.cpu() - image.cpu()).abs().mean(dim=0)
        mask = torch.ones_like(change).bool() if self.mask is None else self.mask.cpu()
        outside = 0.0 if self.mask is None else float(change[~mask].mean())
        return StyleResult(painting.image, painting, float(change[mask].mean()), outside)


def text_row(
    model: DualEncoder, text: str, *, templates: Sequence[str] = ("{}",), name: str = "text"
) -> Float[Tensor, "1 d"]:
    """Unit mean of a text's embeddings in several sentences, each as long as it comes.

    Raises:
        InputError: a text without words, or a template without ``{}``.
    """
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{name}: expected a text with words, got {text!r:.200}")
    if not templates or not all("{}" in template for template in templates):
        raise InputError(f"templates: expected sentences with {{}}, got {list(templates)!r:.200}")
    rows = encode_texts(model, [template.replace("{}", text) for template in templates])
    return F.normalize(rows.mean(dim=0, keepdim=True), dim=1)


def _way(row: Tensor, source: Tensor, *, name: str) -> Float[Tensor, "1 d"]:
    way = row - source
    if float(way.norm()) < 1e-6:
        raise InputError(f"{name}: expected another text than source_text, for the two give no direction")
    return F.normalize(way, dim=1)
