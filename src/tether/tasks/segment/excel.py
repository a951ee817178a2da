"""ExCEL: patches attend to what is like them, and class texts take in what descriptions say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Part, Positive, Share, Whole, checked
from tether.data.dense_labels import IGNORED
from tether.data.images import resize
from tether.models.anatomy.find import anatomy_of
from tether.models.attention_maps import attention_maps
from tether.models.class_maps import BLOCKS, Normalise, self_correlation_features, text_scores
from tether.models.dense import Kind
from tether.models.map_refinement import pixel_refine, transition
from tether.models.text_attributes import attribute_centres, enrich_texts
from tether.tasks.segment.segmenter import DenseSegmenter

ATTENDED = 6
"""Last blocks whose attention spreads a map."""


class ExcelSegmenter(DenseSegmenter):
    """Patches that took values from those alike in the last blocks, by what they have of a class beyond all others.

    Nothing is learnt. Scores are differences from the mean over the texts, so name what else is there, as a class or in
    ``background``. Only vision transformers have blocks that can be changed so.

    Source: arXiv 2503.20826 and its released code, whose maps of the classes that an image is known to have are
    ``models.class_maps.class_maps``. Here nobody knows which are there: maps are not stretched to 0 and 1, and are
    spread by attention without boxes around their peaks. Attention is the mean over heads in every block.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.tasks.segment import ExcelSegmenter
        >>> segmenter = ExcelSegmenter(pixels=2).prepare(create("tiny").eval(), ["road", "sky"])
        >>> (masks,) = segmenter.predict([torch.zeros(3, 50, 120, dtype=torch.uint8)])
        >>> masks.size
        (50, 120)
    """

    @checked
    def __init__(
        self,
        *,
        attributes: Mapping[str, Sequence[str]] | None = None,
        clusters: Count | None = None,
        keep: Part = 0.9,
        blocks: Count = BLOCKS,
        kind: Kind = "qkv",
        normalise: Normalise = "tokens",
        spread: Literal["none", "attention"] = "none",
        pixels: Whole = 0,
        side: Count = 224,
        templates: Sequence[str] | None = None,
        temperature: Positive | None = None,
        background: Sequence[str] = (),
        least: Share = 0.0,
        batch_size: Count = 256,
    ) -> None:
        """Choose what is done; the settings not named are those of ``DenseSegmenter``.

        Args:
            attributes: what is said of classes, see ``models.text_attributes.attribute_centres``; a class without any
                keeps its plain text.
            clusters: of all descriptions; None takes 0.28 of their number.
            keep: share of the clusters that count for a class.
            blocks: that are changed, the last ones.
            kind: what is compared in them.
            normalise: see ``models.class_maps.text_scores``.
            spread: maps along the ``attention`` of the last blocks, which costs a second pass.
            pixels: rounds of averaging over pixels that look alike; 0 leaves patches as they are.
            side: short side in pixels of the image that is looked at for that, at most.
            templates: sentences with ``{}`` for the class name; None takes those that suit the model.
            temperature: scores are divided by it; None takes the model's own scale.
            background: words for what is none of the classes.
            least: probability below which a pixel is ``background``.
            batch_size: prompts in one forward.
        """
        super().__init__(
            templates=templates, temperature=temperature, background=background, least=least, batch_size=batch_size
        )
        self.attributes = {} if attributes is None else {name: tuple(said) for name, said in attributes.items()}
        self.clusters, self.keep, self.blocks, self.kind = clusters, keep, blocks, kind
        self.normalise, self.spread, self.pixels, self.side = normalise, spread, pixels, side

    def class_rows(self, model: DualEncoder, texts: Sequence[str]) -> Float[Tensor, "t d"]:
        """Rows of the texts; those of classes with descriptions have taken in what is said."""
        if (name := geometry_of(model).name) != "clip":
            raise UnsupportedModelError(f"excel: it compares embeddings by cosine, and this model's geometry is {name}")
        rows = super().class_rows(model, texts)
        described = [n for n, text in enumerate(texts) if self.attributes.get(text) and text not in self.background]
        if self.attributes and not described:
            raise InputError(f"attributes: expected some of {', '.join(texts)}, got {', '.join(self.attributes)}")
        if described:
            said = {texts[n]: self.attributes[texts[n]] for n in described}
            centres = attribute_centres(model, said, clusters=self.clusters, batch_size=self.batch_size).to(rows)
            rows = rows.clone()
            rows[described] = enrich_texts(rows[described], centres, keep=self.keep)
        return rows

    def patches(self, model: DualEncoder, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """See ``DenseSegmenter``."""
        return self_correlation_features(model, image, blocks=self.blocks, kind=self.kind)[:, 1:]

    def scores(self, model: DualEncoder, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n t"]:
        """See ``DenseSegmenter``."""
        features = self_correlation_features(model, image, blocks=self.blocks, kind=self.kind).float()
        found = self.scale * text_scores(features, self.rows.to(features), normalise=self.normalise)[:, 1:]
        if self.spread == "none":
            return found
        tower = anatomy_of(model)
        last = range(-min(ATTENDED, len(tower.blocks)), 0)
        maps = attention_maps(model, image, rows="all", layers=list(last)).double().mean(dim=(1, 2))
        steps = [transition(one) for one in maps[:, tower.prefix :, tower.prefix :]]
        return (torch.stack(steps) @ found.double()).to(found)

    def refine(self, scores: Float[Tensor, "t r c"], image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "t q s"]:
        """See ``DenseSegmenter``."""
        if not self.pixels:
            return scores
        share = min(1.0, self.side / min(image.shape[1:]))
        height, width = (max(1, round(end * share)) for end in image.shape[1:])
        small = resize(image, height, width, "bilinear")
        return pixel_refine(small.float(), scores.float(), rounds=self.pixels)

    def settings(self) -> dict[str, Any]:
        """See ``Segmenter``."""
        names = ("attributes", "clusters", "keep", "blocks", "kind", "normalise", "spread", "pixels", "side")
        return {**super().settings(), **{name: getattr(self, name) for name in names}}


@checked
def pseudo_labels(
    maps: Float[Tensor, "k r c"],
    image: Float[Tensor, "3 h w"],
    *,
    present: Sequence[int],
    low: Share = 0.25,
    high: Share = 0.7,
    rounds: Whole = 10,
) -> Int[Tensor, "h w"]:
    """Labels of an image to learn from: a class where it is sure, 0 where nothing is, 255 in between.

    Source: ExCEL (arXiv 2503.20826), as AFA (arXiv 2203.02664) does it.

    Args:
        maps: of all classes, 0 to 1.
        image: its pixels.
        present: numbers of the classes that the image is known to have, from 0.
        low: value of a map below which nothing is there.
        high: above which it is sure.
        rounds: of ``models.map_refinement.pixel_refine``.

    Returns:
        (h, w) 0 for the background, n + 1 for class n, 255 for nothing to learn from.

    Raises:
        InputError: a class that there is not, or ``low`` above ``high``.

    Example:
        >>> import torch
        >>> from tether.tasks.segment.excel import pseudo_labels
        >>> pseudo_labels(torch.tensor([[[0.0, 0.5, 1.0]]]), torch.zeros(3, 1, 3), present=[0], rounds=0)
        tensor([[  0, 255,   1]])
    """
    if low > high:
        raise InputError(f"low: expected at most high, {high}, got {low}")
    if strange := [number for number in present if not 0 <= number < len(maps)]:
        raise InputError(f"present: expected classes 0 to {len(maps) - 1}, got {strange[0]}")
    numbers = torch.tensor([0, *(number + 1 for number in present)], device=maps.device)
    found = []
    for bar in (high, low):
        both = torch.cat([torch.full_like(maps[:1], bar), maps[list(present)]])
        refined = pixel_refine(image, both, rounds=rounds)
        found.append(numbers[refined.argmax(dim=0)])
    sure, any_ = found
    return sure.masked_fill(sure == 0, IGNORED).masked_fill((sure == 0) & (any_ == 0), 0)
