"""Images of texts as codewords of ever finer scales (VAR-CLIP)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Share, Whole, checked
from tether.core.types import Side
from tether.generation.autoregress.sampling import Guidance, sample
from tether.generation.autoregress.transformer import ScaleTransformer
from tether.generation.text_generator import TextGenerator
from tether.models.embed import encode_texts
from tether.models.latent.codec import ConvCodec
from tether.models.latent.quantizer import MultiScaleQuantizer, Scales, Shared, Vocabulary
from tether.models.latent.spec import Channels

_KNOWN = 50_000
"""Texts whose rows are kept in memory."""


class VarGenerator(TextGenerator):
    """A codec of multi-scale codewords and a transformer that guesses them from a text's embedding, scale by scale.

    Train ``codec`` first (``training.codec_training.train_codec``), then the rest with ``generation.train_generator``,
    which leaves the codec as it is. Any encoder of ``tether.load`` may read the texts; its rows are made unit rows.

    Source: VAR-CLIP (arXiv 2408.01181). There a text stands in for the class of VAR.

    Attributes:
        codec: images to codewords and back.
        transformer: texts to codewords.

    Example:
        >>> import torch
        >>> from tether.generation import VarGenerator
        >>> from tether.models import create
        >>> maker = VarGenerator(create("tiny").eval(), size=16, scales=(1, 2, 4), vocab=16, width=16, depth=1).eval()
        >>> maker.generate(["a red circle"], generator=torch.Generator().manual_seed(0)).shape
        torch.Size([1, 3, 16, 16])
    """

    name = "scales"

    @checked
    def __init__(
        self,
        model: DualEncoder,
        *,
        size: Side = 64,
        scales: Scales = (1, 2, 3, 4, 6, 8),
        vocab: Vocabulary = 256,
        channels: Channels = 16,
        codec_width: Annotated[int, Ge(8), Le(1024)] = 32,
        znorm: bool = False,
        phi: Shared = 4,
        width: Annotated[int, Ge(1), Le(8192)] = 128,
        depth: Annotated[int, Ge(1), Le(128)] = 4,
        heads: Count = 4,
        unit: bool = True,
        null: Share = 0.1,
        cfg: Guidance = 2.0,
        top_k: Whole = 0,
        top_p: Share = 0.0,
        smooth: bool = False,
        seed: Whole = 0,
    ) -> None:
        """Draw the weights.

        Args:
            model: reads texts; it rests.
            size: side of the images; 2, 4, 8, 16 or 32 times the last scale.
            scales: sides of the maps of codewords, rising.
            vocab: codewords.
            channels: of a codeword.
            codec_width: of the codec; a multiple of 8.
            znorm: choose the codeword of the largest cosine, in place of the nearest.
            phi: convolutions that the scales share; 0 gives each its own.
            width: of the transformer; the paper has 64 for each block.
            depth: its blocks.
            heads: of each.
            unit: let attention compare unit vectors; see ``LevelTransformer``.
            null: share of texts that training hides.
            cfg: how far ``generate`` goes from what there would be without a text.
            top_k: see ``sampling.kept``.
            top_p: see ``sampling.kept``.
            smooth: see ``sampling.sample``.
            seed: of the weights.

        Raises:
            InputError: scales that do not rise or do not fit the size, or a width that heads do not divide.
        """
        settings = {
            "size": size, "scales": list(scales), "vocab": vocab, "channels": channels, "codec_width": codec_width,
            "znorm": znorm, "phi": phi, "width": width, "depth": depth, "heads": heads, "unit": unit, "null": null,
            "cfg": cfg, "top_k": top_k, "top_p": top_p, "smooth": smooth, "seed": seed,
        }  # fmt: skip
        super().__init__(model, settings=settings)
        self.size = (size, size)
        by, left = divmod(size, scales[-1])
        if left or by not in (2, 4, 8, 16, 32):
            raise InputError(f"size: expected 2, 4, 8, 16 or 32 times the last scale, {scales[-1]}, got {size}")
        table = {"vocab": vocab, "scales": tuple(scales), "znorm": znorm, "phi": phi, "seed": seed}
        self.codec = ConvCodec(channels=channels, downsampling=by, width=codec_width, seed=seed, quantizer=table)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.transformer = ScaleTransformer(
                cond_dim=model.dim, width=width, depth=depth, heads=heads, scales=scales, vocab=vocab,
                channels=channels, unit=unit, null=null,
            )  # fmt: skip
        self._rows: dict[str, Tensor] = {}

    @property
    def quantizer(self) -> MultiScaleQuantizer:
        """Of the codec."""
        return self.codec.quantizer

    @property
    def learns(self) -> ScaleTransformer:
        """The transformer; the codec is trained before."""
        return self.transformer

    def read_ahead(self, texts: Sequence[str]) -> None:
        """See ``TextGenerator``."""
        if texts:
            self.cond(list(dict.fromkeys(texts))[:_KNOWN])

    def loss(
        self, images: Float[Tensor, "b 3 h w"], texts: Sequence[str], *, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the images' codewords, a mean over all places of all scales; the codec gets no gradient.

        Raises:
            InputError: see ``TextGenerator``.
        """
        self.check_images(images, self.check_texts(texts))
        ids = self.codec.ids(images)
        with torch.no_grad():
            told = self.quantizer.teacher_input(ids)
        logits = self.transformer(told, self.cond(texts), draws=generator)
        return F.cross_entropy(logits.flatten(0, 1), torch.cat(ids, dim=1).flatten())

    @torch.no_grad()
    def generate(
        self,
        texts: Sequence[str],
        *,
        generator: torch.Generator,
        steps: Count | None = None,
        cfg: Guidance | None = None,
        top_k: Whole | None = None,
        top_p: Share | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """One image for each text, in -1 to 1, one forward pass a scale.

        Args:
            texts: any.
            generator: of the draws.
            steps: scales that are drawn, the coarse ones first; None for all.
            cfg: in place of the maker's own; 0 adds nothing.
            top_k: in place of the maker's own; see ``sampling.kept``.
            top_p: in place of the maker's own.

        Raises:
            InputError: see ``TextGenerator``, or more steps than scales.
        """
        rows = self.cond(self.check_texts(texts))
        return self.of_rows(rows, generator=generator, steps=steps, cfg=cfg, top_k=top_k, top_p=top_p)

    @torch.no_grad()
    def of_rows(
        self,
        cond: Float[Tensor, "b d"],
        *,
        generator: torch.Generator,
        steps: Count | None = None,
        cfg: Guidance | None = None,
        top_k: Whole | None = None,
        top_p: Share | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """One image for each unit row of a text, as ``generate``."""
        given = {"cfg": cfg, "top_k": top_k, "top_p": top_p}
        chosen: dict[str, Any] = {
            name: self.settings[name] if value is None else value for name, value in given.items()
        }
        made = sample(
            self.transformer, self.quantizer, cond, steps=steps, smooth=self.settings["smooth"], rng=generator, **chosen
        )
        return self.codec.to_images(made).clamp(-1, 1)

    def cond(self, texts: Sequence[str]) -> Float[Tensor, "b d"]:
        """Unit rows of texts, each distinct one read once."""
        if new := list(dict.fromkeys(text for text in texts if text not in self._rows)):
            if len(self._rows) + len(new) > _KNOWN:
                self._rows.clear()
                new = list(dict.fromkeys(texts))
            rows = F.normalize(encode_texts(cast(DualEncoder, self.model), new), dim=1)
            self._rows.update(zip(new, rows, strict=True))
        return torch.stack([self._rows[text] for text in texts]).to(self.transformer.null.device)
