"""CLIP: an image tower and a text tower into one space, and the scale of their cosines. Start reading here."""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.geometry import Geometry, is_hyperbolic
from tether.core.protocols import Tokenizer
from tether.core.types import Encoded, Features, ImageSpec
from tether.models.embed_anything import Embeds
from tether.models.tokenizer import ClipTokenizer
from tether.models.towers.blocks.trace import Trace
from tether.models.towers.config import CLIP_VOCABULARY, ModelConfig
from tether.models.towers.sizes import Resizes, Sizes, tokenizer_at
from tether.models.towers.text.tower import TextTower
from tether.models.towers.vision.tower import VisionTower
from tether.models.towers.weight_sharing import share_

LOG_CURVATURES = (math.log(0.1), math.log(10.0))  # arXiv 2304.09172, section 3: where a curvature is kept
Want = Literal["pooled", "tokens"]


class Clip(nn.Module, Embeds, Resizes):
    """A contrastive language-image model (arXiv 2103.00020); a ``core.protocols.DualEncoder``.

    Attributes:
        config: what it is made of.
        dim: size of the shared space.
        image_spec: how images must be prepared.
        visual: the image tower.
        text: the text tower.
        log_logit_scale: 0-d logarithm of the scale; kept in its range by ``clamp_logit_scale_``.
        log_curvature: 0-d logarithm of the curvature of a hyperbolic space, else None.
        tokenizer: text to ids.
        sides: names of its direct parts by side, and of those that belong to both.
    """

    sides: Mapping[str, Sequence[str]] = {
        "image": ("visual",),
        "text": ("text",),
        "both": ("log_logit_scale", "logit_offset", "log_curvature"),
    }

    def __init__(self, config: ModelConfig, *, tokenizer: Tokenizer | None = None) -> None:
        """Build both towers with unset weights; ``create`` and ``load`` give a model that is ready.

        Args:
            config: sizes and options.
            tokenizer: text to ids; CLIP's own if None.
        """
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.image_spec: ImageSpec = config.vision.image
        self.tokenizer: Tokenizer = ClipTokenizer(config.text.context) if tokenizer is None else tokenizer
        tower = pkgutil.resolve_name(config.vision.made_by)
        self.visual: VisionTower = tower(config.vision, dim=config.dim, geometry=config.geometry)
        self.text = TextTower(config.text, dim=config.dim, geometry=config.geometry)
        if config.towers == "shared":
            share_(self.text, self.visual)
        self.log_logit_scale = nn.Parameter(torch.tensor(math.log(config.logit_scale)))
        bias = config.logit_bias
        self.logit_offset = None if bias is None else nn.Parameter(torch.tensor(float(bias)))
        self.log_curvature = nn.Parameter(torch.tensor(0.0)) if is_hyperbolic(config.geometry) else None

    def at_sizes(self, sizes: Sizes) -> Clip:
        """See ``Resizes``."""
        vision = replace(self.config.vision, image=sizes.image, patch=sizes.patch or self.config.vision.patch)
        config = replace(self.config, vision=vision, text=self.config.text.at_context(sizes.context, line=sizes.line))
        return Clip(config, tokenizer=tokenizer_at(self.tokenizer, sizes.context))

    @property
    def patch_side(self) -> int:
        """Side of a patch in pixels."""
        return self.config.vision.patch

    @property
    def kernel_side(self) -> int:
        """See ``Resizes``."""
        return self.visual.side

    def _try(self, made: Clip, sizes: Sizes) -> None:
        """See ``Resizes``."""
        if self.visual.takes_images:
            super()._try(made, sizes)  # pyrefly: ignore[bad-argument-type] - its own class, as a type variable

    @property
    def text_rows(self) -> int:
        """Tokens that the text tower has positions for."""
        return self.config.text.context

    @property
    def image_weights(self) -> tuple[str, ...]:
        """Beginnings of the names of the image tower's weights."""
        return ("visual.",)

    def initialise_(self, generator: torch.Generator) -> None:
        """Draw every weight of both towers from the generator."""
        self.visual.initialise_(generator)
        self.text.initialise_(generator)

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """0-d multiplier of cosines, with gradient."""
        return self.log_logit_scale.exp()

    @property
    def logit_bias(self) -> Float[Tensor, ""] | None:
        """0-d offset of the logits, or None."""
        return self.logit_offset

    @property
    def geometry(self) -> Geometry:
        """What the embeddings are compared with; the curvature of a hyperbolic space has a gradient."""
        if self.log_curvature is None:
            return Geometry(self.config.geometry)
        return Geometry(self.config.geometry, self.log_curvature.clamp(*LOG_CURVATURES).exp())

    @torch.no_grad()
    def clamp_logit_scale_(self) -> None:
        """Keep the scale in its range, and a curvature in its own.

        Call it after the optimiser's step, so that gradients survive at the ends.
        """
        self.log_logit_scale.clamp_(*self.config.log_scale_range)
        if self.log_curvature is not None:
            self.log_curvature.clamp_(*LOG_CURVATURES)

    def freeze_logit_scale_(self) -> None:
        """Keep the scale at its present value in training; call it before the optimiser is built."""
        self.log_logit_scale.requires_grad_(False)

    def prune_vocabulary_(self, ids: Iterable[int] | Tensor) -> None:
        """Train only these rows of the token table (and the start, end and padding ids); the others rest unchanged.

        Exact for the rows in use, and it spares their gradients and optimiser state. Other words still work. Call it
        before the optimiser is built. ``state_dict``, ``save`` and ``export`` always give the whole table.

        Args:
            ids: token ids of the training texts, any shape and order, repeats allowed.
        """
        used = torch.as_tensor(ids if isinstance(ids, Tensor) else list(ids), dtype=torch.int64).flatten().cpu()
        special = [0, self.config.text.end]
        if self.config.text.vocabulary == CLIP_VOCABULARY:
            special.append(CLIP_VOCABULARY - 2)
        self.text.token.prune_(torch.cat([used, torch.tensor(special)]))

    def restore_vocabulary_(self) -> None:
        """Make the whole token table one trainable parameter again."""
        self.text.token.restore_()

    def encode_image(
        self,
        image: Tensor,
        *,
        mask: Bool[Tensor, "b n"] | None = None,
        keep: Int[Tensor, "b k"] | None = None,
        want: Want = "pooled",
        trace: Trace | None = None,
    ) -> Features:
        """Embed images.

        Args:
            image: (b, 3, h, w) uint8 pixels at the model's size, or floats already normalised; or latents, for a tower
                that reads them.
            mask: (b, patches), True where a patch may be attended to; the class token always may.
            keep: (b, k) indices of the patches to compute, row by row from the top left; the others are dropped before
                the projection and cost nothing. Draw them outside: chance is an argument.
            want: ``pooled``, or also all ``tokens``: normed states of the last block, class token first, in the tower's
                width, such that ``visual.project(tokens[:, 0])`` is ``pooled`` (not of a tower with ``pool: mean``).
                Without them the last block computes the class token only.
            trace: records or changes inner values.
        """
        return self.visual(image, mask=mask, keep=keep, want=want, trace=trace)

    def encode_text(
        self,
        text: Int[Tensor, "b l"],
        *,
        mask: Bool[Tensor, "b l"] | None = None,
        want: Want = "pooled",
        trace: Trace | None = None,
    ) -> Features:
        """Embed texts.

        Args:
            text: (b, l) token ids; what follows a row's first end token is padding.
            mask: (b, l), True where a token may be attended to; a hidden token still sees itself.
            want: ``pooled``, or also all ``tokens``: normed states of the last block in the tower's width; padding is
                False in the features' mask.
            trace: records or changes inner values.
        """
        return self.text(text, mask=mask, want=want, trace=trace)

    def forward(self, image: Tensor, text: Tensor, *, keep: Int[Tensor, "b k"] | None = None) -> Encoded:
        """Both sides of a batch of pairs, as an objective takes them; wrappers such as DDP call this."""
        images, texts = self.encode_image(image, keep=keep), self.encode_text(text)
        return Encoded(images, texts, self.logit_scale, self.logit_bias, geometry=self.geometry)
