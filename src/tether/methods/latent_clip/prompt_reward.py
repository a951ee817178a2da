"""How little an image or a latent shows what a text says, as a loss with gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import NonNegative, checked
from tether.core.types import ImageSpec
from tether.generation.seen import as_images
from tether.models.embed import encode_texts
from tether.models.latent.codec import Codec
from tether.models.latent.tower import LatentTower

Texts = str | Sequence[str] | Tensor
FULL = 100.0
"""What a cosine of 1 times the scale is taken from; CLIP's own largest scale."""


class PromptReward:
    """CLIP's score of what a generator gives, as a loss: 100 - scale * cosine (ReNO, arXiv 2406.04312; its code).

    With ``others`` it is a classifier's: minus the logarithm of the probability of the text among it and these. A model
    on latents reads what the generator gives as it is, which is what Latent-CLIP is for (arXiv 2503.08455); one on
    pixels needs a codec, or a generator of images in -1 to 1. Judge the result by another model than the one that
    steered: what is optimised against a model fools it before it looks right.

    Of the paper unpublished, so chosen here: how ``negative`` and ``others`` enter.

    Attributes:
        weight: of this reward among several.

    Example:
        >>> import torch
        >>> from tether.methods.latent_clip import PromptReward
        >>> from tether.models import create
        >>> model = create("tiny", vision={"tower": "latent"}).eval()  # without a codec: latents alone
        >>> PromptReward(model, "a red circle")(torch.randn(2, 4, 4, 4)).shape
        torch.Size([2])
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        text: Texts,
        *,
        weight: NonNegative = 0.01,
        direction: Literal["towards", "away"] = "towards",
        negative: Texts | None = None,
        negative_weight: NonNegative = 1.0,
        others: Sequence[str] | Tensor | None = None,
        through: Codec | None = None,
    ) -> None:
        """Encode the texts once.

        Args:
            model: any encoder of ``tether.load``, in evaluation mode; its weights get no gradient.
            text: what to show: one for all images, or one each; or (1 or b, d) embeddings.
            weight: of this reward among several.
            direction: ``away`` leads away from the text.
            negative: what not to show, likewise; its cosine counts against that of the text.
            negative_weight: of that cosine.
            others: (k,) texts that the text is told from.
            through: decodes what the generator gives, for a model on pixels.

        Raises:
            InputError: no encoder, no texts or one without words, embeddings of another width, or ``others`` and
                ``negative`` together.
        """
        if not isinstance(model, nn.Module):
            raise InputError(
                f"model: expected an encoder, got {type(model).__name__}; tether.load opens one by its name"
            )
        if others is not None and negative is not None:
            raise InputError("others: expected none with a negative text, which may stand among the others")
        self.model, self.weight, self.direction, self.through = model, weight, direction, through
        self.negative_weight = negative_weight
        self._text = self._rows(text, "text")
        self._negative = None if negative is None else self._rows(negative, "negative")
        self._others = None if others is None else self._rows(others, "others")
        self._looked = False

    def __call__(self, made: Tensor) -> Float[Tensor, " b"]:
        """The loss of each image, before ``weight``.

        Args:
            made: (b, c, h, w) latents, or images in -1 to 1.

        Raises:
            InputError: latents of another shape or, at the first call, of another scale; or texts for another number of
                images.
        """
        model = cast(DualEncoder, self.model)
        rows = F.normalize(model.encode_image(self._shown(made)).pooled, dim=1)
        for name, texts in (("text", self._text), ("negative", self._negative)):
            if texts is not None and len(texts) not in (1, len(rows)):
                raise InputError(f"{name}: expected one for all or one each of {len(rows)} images, got {len(texts)}")
        scale, sign = model.logit_scale.detach().to(rows), 1 if self.direction == "towards" else -1
        score = scale * (rows * self._text.to(rows)).sum(1)
        if self._others is not None:
            rest = scale * rows @ self._others.to(rows).T
            chance = score - torch.logsumexp(torch.cat([score[:, None], rest], dim=1), dim=1)
            return -chance if sign == 1 else -torch.log1p(-chance.exp().clamp(max=1 - 1e-6))
        if self._negative is not None:
            score = score - self.negative_weight * scale * (rows * self._negative.to(rows)).sum(1)
        return FULL - sign * score

    def _shown(self, made: Tensor) -> Tensor:
        """What the model is given: latents as they are, images at its size and normalised."""
        model: Any = self.model
        tower = getattr(model, "visual", None)
        if isinstance(tower, LatentTower) and self.through is None:
            if not self._looked:
                with torch.no_grad():
                    tower.latents(made.detach())  # which holds them to the known scale
                self._looked = True
            return made
        spec: ImageSpec | None = getattr(model, "image_spec", None)
        if self.through is not None:
            made = self.through.decode(made)
        if spec is None:  # no model of ``tether.load``; it takes what it gets
            return made
        if made.ndim != 4 or made.shape[1] != 3:
            got = tuple(made.shape)
            raise InputError(
                f"expected (b, 3, h, w) images, got {got}; a model on pixels reads latents through a codec"
            )
        return as_images(made, spec=spec)

    def _rows(self, texts: Texts | Sequence[str], name: str) -> Float[Tensor, "k d"]:
        if isinstance(texts, Tensor):
            found = texts.detach()
            width = getattr(self.model, "dim", found.shape[-1])
            if found.ndim != 2 or not len(found) or found.shape[1] != width:
                raise InputError(f"{name}: expected (k, {width}) embeddings, got {tuple(found.shape)}")
        else:
            words = [texts] if isinstance(texts, str) else list(texts)
            if not words or not all(word.strip() for word in words):
                raise InputError(f"{name}: expected at least one text, got {'one without words' if words else 'none'}")
            with torch.no_grad():
                found = encode_texts(cast(DualEncoder, self.model), words)
        return F.normalize(found, dim=1)
