"""ExCEL: patches attend to what is like them, and class texts take in what descriptions say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.geometry import geometry_of
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Part, Positive, Share, Whole, checked
from tether.data.images import resize
from tether.methods.excel_wsss.class_maps import (
    BLOCKS,
    Normalise,
    patch_attention,
    self_correlation_features,
    text_scores,
)
from tether.methods.excel_wsss.map_refinement import pixel_refine, transition
from tether.methods.excel_wsss.patch_relation import ExcelAdapter, block_patches, relation_weights
from tether.methods.excel_wsss.text_attributes import attribute_centres, enrich_texts
from tether.models.features.dense import Kind
from tether.tasks.segment.segmenter import DenseSegmenter


class ExcelSegmenter(DenseSegmenter):
    """Patches that took values from those alike in the last blocks, by what they have of a class beyond all others.

    Nothing is learnt, unless a head is given that ``tether adapt --recipe relation`` has taught how patches relate.
    Scores are differences from the mean over the texts, so name what else is there, as a class or in ``background``.
    Only vision transformers have blocks that can be changed so.

    Source: arXiv 2503.20826 and its released code, whose maps of the classes that an image is known to have are
    ``class_maps``. Here nobody knows which are there: maps are not stretched to 0 and 1, and are
    spread by attention without boxes around their peaks. Attention is the mean over heads in every block.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.methods.excel_wsss import ExcelSegmenter
        >>> segmenter = ExcelSegmenter(pixels=2).prepare(create("tiny").eval(), ["road", "sky"])
        >>> (masks,) = segmenter.predict([torch.zeros(3, 50, 120, dtype=torch.uint8)])
        >>> masks.size
        (50, 120)
    """

    looks_inside = True

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
        head: ExcelAdapter | None = None,
        side: Count = 224,
        templates: Sequence[str] | None = None,
        temperature: Positive | None = None,
        background: Sequence[str] = (),
        least: Share = 0.0,
        batch_size: Count = 256,
    ) -> None:
        """Choose what is done; the settings not named are those of ``DenseSegmenter``.

        Args:
            attributes: what is said of classes, see ``attribute_centres``; a class without any
                keeps its plain text.
            clusters: of all descriptions; None takes 0.28 of their number.
            keep: share of the clusters that count for a class.
            blocks: that are changed, the last ones.
            kind: what is compared in them.
            normalise: see ``methods.excel_wsss.class_maps.text_scores``.
            spread: maps along the ``attention`` of the last blocks, which costs a second pass.
            pixels: rounds of averaging over pixels that look alike; 0 leaves patches as they are.
            head: taught on this very model; None adds nothing to what patches take of each other.
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
        self.head = None if head is None else head.eval()

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
        return self._features(model, image)[:, 1:]

    def scores(self, model: DualEncoder, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n t"]:
        """See ``DenseSegmenter``."""
        features = self._features(model, image).float()
        found = self.scale * text_scores(features, self.rows.to(features), normalise=self.normalise)[:, 1:]
        if self.spread == "none":
            return found
        steps = [transition(one) for one in patch_attention(model, image).double().mean(dim=1)]
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
        head = None if self.head is None else model_digest(self.head)
        return {**super().settings(), **{name: getattr(self, name) for name in names}, "head": head}

    def _features(self, model: DualEncoder, image: Tensor) -> Float[Tensor, "b m d"]:
        relation = None
        if self.head is not None:
            blocks, _ = block_patches(model, image)
            relation = relation_weights(self.head.to(blocks[0])([one.float() for one in blocks]))
        return self_correlation_features(model, image, blocks=self.blocks, kind=self.kind, relation=relation)
