"""CLIP-Refine: pairs pulled toward one random vector, while the old model's judgement is kept (arXiv 2504.12717)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import NonNegative, Positive, Share, checked
from tether.core.types import Encoded, Loss

NORMALISED_SCALE = 100.0  # what OpenAI's models multiply cosines by, arXiv 2103.00020
Distiller = Literal["blend", "logits", "features"]
Reference = Literal["normal", "uniform"]


@final
class ClipRefineLoss:
    """Pulls both embeddings of a pair toward one shared random vector, and holds on to what the old model knew.

    Three terms are added with weights, all on embeddings that are NOT normalised:

    - random features: ``MSE(f, z) + MSE(g, z)``, mean over rows and dimensions, with z drawn anew in every call and
      the same for the image and the text of a pair. As z knows nothing of the pair, in expectation this only pulls
      every embedding toward ``mu``: run long, it shrinks them to nothing. Cap the steps and watch ``length``.
    - distillation: the cross-entropy of the batch's softmax with the target ``alpha * identity + (1 - alpha) *
      softmax(old logits / temperature)``, less the target's own entropy, times the temperature squared; the mean of
      both directions. Logits are raw inner products, without a logit scale.
    - CLIP's own loss on the raw inner products times the logit scale; its weight is 0, so it is logged only.

    The recipe fits embeddings whose length is about the root of their dimension, as OpenAI's are. With shorter ones
    the softmax of raw products is flat and holds on to nothing: then ``feature_scale="normalised"`` takes cosines
    times 100 instead.

    Source: arXiv 2504.12717, sections 3.2 and 3.3, and the released updater. The paper writes the random term as a
    squared length for each pair; the release, and this, divide it by the dimension. Unlike the release, one pair may
    come alone, and images and texts may have random vectors of their own.

    Example:
        >>> import torch
        >>> from tether.methods.clip_refine import ClipRefineLoss, refine_
        >>> from tether.core.types import Batch
        >>> from tether.models import create
        >>> model = create("tiny")
        >>> batch = Batch(torch.rand(3, 3, 32, 32), model.tokenizer(["a red star", "a moon", "the sun"]))
        >>> done = refine_(model, [batch] * 2, loss=ClipRefineLoss(), learning_rate=1e-6)
        >>> done.steps, bool(abs(done.last_length / done.first_length - 1) < 0.01)  # the embeddings do not shrink
        (2, True)
    """

    @checked
    def __init__(
        self,
        *,
        lambda_rand: NonNegative = 1.0,
        lambda_kd: NonNegative = 1.0,
        lambda_cont: NonNegative = 0.0,
        alpha: Share = 0.5,
        temperature: Positive = 1.0,
        mu: float | Tensor = 0.0,
        sigma: float | Tensor = 1.0,
        share: Literal["pair", "side"] = "pair",
        reference: Reference = "normal",
        distiller: Distiller = "blend",
        feature_scale: Literal["raw", "normalised"] = "raw",
        generator: torch.Generator | None = None,
    ) -> None:
        """Take the settings; the defaults are the release's.

        Args:
            lambda_rand: weight of the random features.
            lambda_kd: weight of the distillation; at 0 no teacher is needed.
            lambda_cont: weight of CLIP's loss.
            alpha: share of the true pairing in the target.
            temperature: of both softmaxes.
            mu: mean of the random vectors, one number or (d,); with ``uniform`` the lower end.
            sigma: their standard deviation, one number or (d,); with ``uniform`` the upper end, above ``mu``.
            share: ``pair`` has one random vector for both sides of a pair, ``side`` one for each.
            reference: shape of the distribution.
            distiller: ``blend`` as above; ``logits`` and ``features`` are mean squared differences to the old ones.
            feature_scale: what the distillation and CLIP's loss see: ``raw`` embeddings, or ``normalised`` ones, whose
                inner products are multiplied by 100 for the distillation.
            generator: draws the random vectors, on its own device: one on the model's needs no copy each step; None
                uses torch's own.

        Raises:
            InputError: a sigma that does not fit.
        """
        self.lambda_rand, self.lambda_kd, self.lambda_cont = lambda_rand, lambda_kd, lambda_cont
        self.alpha, self.temperature = alpha, temperature
        # The release multiplies alpha by whole numbers, which rounds it to float32 in any precision of the rest.
        self._share = float(np.float32(alpha))
        self.mu, self.sigma = torch.as_tensor(mu), torch.as_tensor(sigma)
        self._placed: tuple[Tensor, Tensor] | None = None
        least = self.mu if reference == "uniform" else torch.zeros(())
        if self.mu.ndim > 1 or self.sigma.ndim > 1 or not bool((self.sigma >= least).all()):
            expected = "at least mu" if reference == "uniform" else "a standard deviation >= 0"
            raise InputError(f"sigma: expected {expected}, one number or (d,), got mu={mu!r} and sigma={sigma!r}")
        self.share, self.reference, self.distiller, self.feature_scale = share, reference, distiller, feature_scale
        self.generator = generator

    def __call__(
        self,
        student: Encoded,
        *,
        teacher: Encoded | None = None,
        z: Float[Tensor, "b d"] | Float[Tensor, "2 b d"] | None = None,
        gather: Gather = LOCAL,
        rand_share: float = 1.0,
    ) -> Loss:
        """The loss of this process's pairs; its mean over processes is that of the whole batch.

        Args:
            student: the batch as the learning model sees it.
            teacher: the same batch as the old model saw it; gradients do not reach it.
            z: (b, d) random vectors to use, or (2, b, d) those of images and of texts; None draws them.
            gather: rows of all processes.
            rand_share: further factor of ``lambda_rand``, for a decay over the run.

        Returns:
            The total, and detached: ``random_features``, ``distillation`` (with a teacher) and ``contrastive`` before
            their weights; ``feature_gap``, the mean distance within a pair; ``modality_gap``, the mean squared
            difference of the two centres; ``length``, the mean length of the embeddings.

        Raises:
            InputError: shapes that do not fit, an empty batch, or no teacher where one is needed.
        """
        image, text = _wide(student.image.pooled), _wide(student.text.pooled)
        _check(image, text, what="student")
        if self.lambda_kd > 0 and teacher is None:
            raise InputError(f"teacher: lambda_kd={self.lambda_kd} needs the old model's embeddings, got None")
        with torch.autocast(image.device.type, enabled=False):
            to_image, to_text = self._references(image, z=z, gather=gather)
            random_features = F.mse_loss(image, to_image) + F.mse_loss(text, to_text)
            contrastive = self._contrastive(image, text, _wide(student.logit_scale), gather=gather)
            total = self.lambda_rand * rand_share * random_features
            if self.lambda_cont > 0:  # else its gradient, zero times perhaps infinity, could be NaN
                total = total + self.lambda_cont * contrastive
            terms = {"random_features": random_features, "contrastive": contrastive} | self._gaps(image, text, gather)
            if teacher is not None:
                old_image, old_text = (_wide(side.pooled).detach() for side in (teacher.image, teacher.text))
                _check(old_image, old_text, what="teacher", shape=image.shape)
                distillation = self._distil(image, text, old_image, old_text, gather=gather)
                if self.lambda_kd > 0:
                    total = total + self.lambda_kd * distillation
                terms["distillation"] = distillation
        return Loss(total, {name: term.detach() for name, term in terms.items()})

    def state_dict(self) -> dict[str, Any]:
        """Where the generator stands; the old model is not part of it."""
        return {} if self.generator is None else {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put the generator where it stood.

        Raises:
            InputError: the state of a loss with a generator for one without, or the other way round.
        """
        if set(state) != set(self.state_dict()):
            raise InputError(f"expected a state with {sorted(self.state_dict())}, got {sorted(state)}")
        if self.generator is not None:
            self.generator.set_state(state["generator"])

    def _references(self, like: Tensor, *, z: Tensor | None, gather: Gather) -> tuple[Tensor, Tensor]:
        """Random vectors of this process's images and texts; all processes draw for all, and each takes its own."""
        rows, dim = like.shape
        if z is None:
            sides = 1 if self.share == "pair" else 2
            z = self._draw((sides, gather.world * rows, dim), like)
            z = z[:, gather.rank * rows : (gather.rank + 1) * rows]
        elif z.shape not in ((rows, dim), (2, rows, dim)):
            raise InputError(f"z: expected {(rows, dim)} or {(2, rows, dim)}, got {tuple(z.shape)}")
        z = z.to(like).reshape(-1, rows, dim)
        return z[0], z[-1]

    def _draw(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        for name, value in (("mu", self.mu), ("sigma", self.sigma)):
            if value.ndim and value.shape != shape[-1:]:
                raise InputError(f"{name}: expected one number or ({shape[-1]},), got {tuple(value.shape)}")
        device = like.device if self.generator is None else self.generator.device
        draw = torch.randn if self.reference == "normal" else torch.rand
        drawn = draw(shape, generator=self.generator, dtype=like.dtype, device=device)
        drawn = drawn.to(like.device, non_blocking=True)
        if self._placed is None or (self._placed[0].device, self._placed[0].dtype) != (like.device, like.dtype):
            self._placed = self.mu.to(like), self.sigma.to(like)  # once, not every step
        mu, sigma = self._placed
        return mu + (sigma if self.reference == "normal" else sigma - mu) * drawn

    def _seen(self, rows: Tensor) -> Tensor:
        return rows if self.feature_scale == "raw" else F.normalize(rows, dim=-1)

    def _contrastive(self, image: Tensor, text: Tensor, scale: Tensor, *, gather: Gather) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.lambda_cont > 0):
            image, text = self._seen(image), self._seen(text)
            own = gather.rank * len(image) + torch.arange(len(image), device=image.device)
            to_text = F.cross_entropy(scale * image @ gather(text).T, own)
            to_image = F.cross_entropy(scale * text @ gather(image).T, own)
        return (to_text + to_image) / 2

    def _distil(self, image: Tensor, text: Tensor, old_image: Tensor, old_text: Tensor, *, gather: Gather) -> Tensor:
        image, text, old_image, old_text = map(self._seen, (image, text, old_image, old_text))
        if self.distiller == "features":
            return F.mse_loss(image, old_image) + F.mse_loss(text, old_text)
        scale = 1.0 if self.feature_scale == "raw" else NORMALISED_SCALE
        ways = [
            (scale * queries @ gather(keys).T, scale * old_queries @ gather(old_keys).T)
            for queries, keys, old_queries, old_keys in (
                (image, text, old_image, old_text),
                (text, image, old_text, old_image),
            )
        ]
        if self.distiller == "logits":
            return (F.mse_loss(*ways[0]) + F.mse_loss(*ways[1])) / 2
        first = gather.rank * len(image)
        return (self._blend(*ways[0], first=first) + self._blend(*ways[1], first=first)) / 2

    def _blend(self, logits: Tensor, old: Tensor, *, first: int) -> Tensor:
        """KL divergence from the softmax of the new logits to the blended target; row i belongs to column first + i."""
        target = (1 - self.alpha) * F.softmax(old / self.temperature, dim=1)
        target.diagonal(first).add_(self._share)
        spoken = F.log_softmax(logits / self.temperature, dim=1)
        return self.temperature**2 * F.kl_div(spoken, target, reduction="batchmean")

    @torch.no_grad()
    def _gaps(self, image: Tensor, text: Tensor, gather: Gather) -> dict[str, Tensor]:
        return {
            "feature_gap": F.pairwise_distance(image, text).mean(),
            "modality_gap": F.mse_loss(gather(image).mean(dim=0), gather(text).mean(dim=0)),
            "length": torch.linalg.vector_norm(torch.cat([image, text]), dim=1).mean(),
        }


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _check(image: Tensor, text: Tensor, *, what: str, shape: torch.Size | None = None) -> None:
    shapes = f"image {tuple(image.shape)} and text {tuple(text.shape)}"
    if image.ndim != 2 or image.shape != text.shape or len(image) == 0:
        raise InputError(f"{what}: expected (b, d) images and as many texts, b >= 1, got {shapes}")
    if shape is not None and image.shape != shape:
        raise InputError(f"{what}: expected {tuple(shape)} as the student has, got {shapes}")
