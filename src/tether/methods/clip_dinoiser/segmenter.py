"""CLIP-DINOiser: patches that belong together speak with one voice, and a head may say where no thing is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.masks import BACKGROUND
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Inner, Layer, Positive, Share, checked
from tether.data.images import resize
from tether.methods.clip_dinoiser.patch_affinity import AT_ONCE, Cosine, pool_alike
from tether.models.features.patch_grouping import THIRD_FROM_THE_END, DinoiserHead, inner_and_tokens
from tether.tasks.segment.segmenter import DenseSegmenter


class DinoiserSegmenter(DenseSegmenter):
    """MaskCLIP's patches, each the mean of those that look like it inside the encoder.

    With a head that ``tether adapt --recipe grouping`` has taught, this is CLIP-DINOiser; where ``background`` is a
    class, the head also says where no thing is. Without one, patches are compared by the states that the head would
    read, less their mean over the image, which all patches share; this is ours. One pass of the tower in any case.

    Source: arXiv 2312.12359 and its released code, which decides what is background by probabilities at a scale of 100
    and of a whole image; here the scale is the model's own, and each window decides.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.methods.clip_dinoiser import DinoiserSegmenter
        >>> segmenter = DinoiserSegmenter(gamma=0.3).prepare(create("tiny").eval(), ["road", "sky"])
        >>> (masks,) = segmenter.predict([torch.zeros(3, 50, 120, dtype=torch.uint8)])
        >>> masks.size
        (50, 120)
    """

    @checked
    def __init__(
        self,
        *,
        head: DinoiserHead | None = None,
        gamma: Cosine = 0.2,
        delta: Inner = 0.99,
        layer: Layer = THIRD_FROM_THE_END,
        at_once: Count = AT_ONCE,
        templates: Sequence[str] | None = None,
        temperature: Positive | None = None,
        background: Sequence[str] = (),
        least: Share = 0.0,
        batch_size: Count = 256,
    ) -> None:
        """Choose how patches are brought together; the other settings are those of ``DenseSegmenter``.

        Args:
            head: taught on this very model; None compares the states themselves.
            gamma: cosine below which two patches have nothing to say to each other.
            delta: probability of the best class from which on a patch belongs to it, whatever the head says; see
                ``calibrate``.
            layer: block whose inner patches are compared, see ``models.features.patch_grouping.inner_and_tokens``.
            at_once: numbers of an affinity that are held at once.
            templates: sentences with ``{}`` for the class name; None takes those that suit the model.
            temperature: similarities are divided by it; None takes the model's own scale.
            background: words for what is none of the classes.
            least: probability below which a pixel is ``background``.
            batch_size: prompts in one forward.
        """
        super().__init__(
            templates=templates, temperature=temperature, background=background, least=least, batch_size=batch_size
        )
        self.head = None if head is None else head.eval()
        self.gamma, self.delta, self.layer, self.at_once = gamma, delta, layer, at_once

    def background_scores(self) -> int:
        """One, by the head."""
        return int(self.head is not None)

    def patches(self, model: DualEncoder, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """See ``DenseSegmenter``."""
        return self._pooled(model, image)[0]

    def scores(self, model: DualEncoder, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n t"]:
        """See ``DenseSegmenter``; the head's background wins just where the best class is unsure and no thing is."""
        patches, inner = self._pooled(model, image)
        found = self.logits(patches)
        if self.head is None or BACKGROUND not in self.classes:
            return found
        best = found.amax(dim=2, keepdim=True)
        unsure = found.logsumexp(dim=2, keepdim=True) - best + math.log(self.delta)
        nothing = -self._head(inner).things(inner).flatten(2).transpose(1, 2)
        # above the best just where both are above 0; without a jump, as scores are averaged and enlarged
        return torch.cat([found, best + torch.minimum(unsure, nothing.to(unsure))], dim=2)

    @checked
    def calibrate(self, images: Sequence[UInt8[Tensor, "3 h w"]], *, share: Inner = 0.95) -> float:
        """Set ``delta`` so that this share of the patches without a thing becomes background, and give it.

        The published 0.99 is for probabilities of a large CLIP over the names of a data set: a small one may reach it
        nowhere, or everywhere. No labels are needed.

        Args:
            images: some of those that will be looked at, each squashed to the model's size.
            share: of the patches that the head finds no thing in.

        Raises:
            InputError: no head, not prepared, no images, or not one patch without a thing.
        """
        if self.head is None or not self._models:
            raise InputError("calibrate: expected a segmenter with a head after prepare(model, classes)")
        found = [one for image in images for one in self._without_things(image)]
        if not found or not (sure := torch.cat(found)).numel():
            raise InputError(f"images: the head finds a thing everywhere in {len(images)} images")
        self.delta = min(max(float(sure.quantile(share)), 1e-6), 1 - 1e-6)
        return self.delta

    def settings(self) -> dict[str, Any]:
        """See ``Segmenter``."""
        head = None if self.head is None else model_digest(self.head)
        return {**super().settings(), "head": head, "gamma": self.gamma, "delta": self.delta, "layer": self.layer}

    @torch.no_grad()
    def _without_things(self, image: Tensor) -> Iterator[Float[Tensor, " m"]]:
        """Probability of the best class of the patches without a thing."""
        model, _ = next(iter(self._models.values()))
        spec = model.image_spec
        pixels = resize(image, *spec.size, spec.interpolation)[None].to(model.logit_scale.device)
        patches, inner = self._pooled(model, pixels)
        nothing = self._head(inner).things(inner).flatten() <= 0
        yield self.logits(patches).softmax(dim=2).amax(dim=2).flatten()[nothing].cpu()

    def _pooled(self, model: DualEncoder, image: Tensor) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b w r c"]]:
        found = inner_and_tokens(model, image, layer=self.layer)
        inner = found.inner.float()
        rows = inner.flatten(2).transpose(1, 2)
        keys = rows - rows.mean(dim=1, keepdim=True) if self.head is None else self._head(inner).keys(inner)
        return pool_alike(found.tokens.float(), keys, threshold=self.gamma, at_once=self.at_once), inner

    def _head(self, inner: Tensor) -> DinoiserHead:
        assert self.head is not None  # who asks has looked
        return self.head.to(inner)


@checked
def with_background(
    probabilities: Float[Tensor, "b k r c"], things: Float[Tensor, "b 1 r c"], *, delta: Share, number: int = 0
) -> Float[Tensor, "b k r c"]:
    """Probability 1 of the background where no class reaches ``delta`` and the head finds no thing.

    Source: CLIP-DINOiser (arXiv 2312.12359), section 3.3; ``DinoiserSegmenter`` decides by the same rule.

    Args:
        probabilities: of the classes.
        things: the head's logits.
        delta: as in ``DinoiserSegmenter``.
        number: of the class ``background``.

    Raises:
        InputError: things of other places, or no such class.

    Example:
        >>> import torch
        >>> from tether.methods.clip_dinoiser.segmenter import with_background
        >>> probabilities = torch.tensor([0.4, 0.6])[None, :, None, None]
        >>> with_background(probabilities, -torch.ones(1, 1, 1, 1), delta=0.99).flatten()
        tensor([1.0000, 0.6000])
    """
    expected = (len(probabilities), 1, *probabilities.shape[2:])
    if tuple(things.shape) != expected:
        raise InputError(f"things: expected {expected}, got {tuple(things.shape)}")
    if not 0 <= number < probabilities.shape[1]:
        raise InputError(f"number: expected a class, 0 to {probabilities.shape[1] - 1}, got {number}")
    nothing = (probabilities.amax(dim=1) < delta) & (things[:, 0].sigmoid() <= 0.5)
    found = probabilities.clone()
    found[:, number] = found[:, number].masked_fill(nothing, 1.0)
    return found
