"""What clipping does to the expected gradient: its bias measured, and the floor below which clipped descent stops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, final

import torch
from annotated_types import MinLen
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Limit, NonNegative, Positive, checked

ClipMode = Literal["sample", "batch", "none"]
"""Clip each sample's gradient and average, clip the average, or neither."""

BatchSizes = Annotated[Sequence[Count], MinLen(1)]
"""How many samples are averaged before they are clipped; 1 is per-sample clipping."""

_BISECTIONS = 200  # more than a float64 has bits


@dataclass(frozen=True, slots=True)
class ClipBiasReport:
    """The bias of clipping at a limit, for k batch sizes; everything float64.

    Attributes:
        batch_sizes: the k sizes of the groups that are averaged before they are clipped; 1 is per-sample clipping.
        bias_norm: (k,) length of the mean of the clipped gradients minus the mean of the raw ones.
        relative_bias: (k,) the same over ``mean_norm``; infinite where that is zero. Mere shortening counts in it.
        cosine: (k,) between the mean of the clipped gradients and that of the raw ones, in [-1, 1]: 1 where clipping
            only shortens it; NaN where one of them is zero.
        clipped_fraction: (k,) share of the groups that were clipped, in [0, 1].
        floor_estimate: (k,) order of the gradient norm below which descent with this clipping does not come, from
            ``clipped_sgd_floor`` with the noise of a group.
        sigma: 0-d deviation of one sample's gradient: root of the mean squared distance to the mean (over n - 1).
        mean_norm: 0-d length of the mean gradient, the true gradient of these samples.
    """

    batch_sizes: tuple[int, ...]
    bias_norm: Float[Tensor, " k"]
    relative_bias: Float[Tensor, " k"]
    cosine: Float[Tensor, " k"]
    clipped_fraction: Float[Tensor, " k"]
    floor_estimate: Float[Tensor, " k"]
    sigma: Float[Tensor, ""]
    mean_norm: Float[Tensor, ""]


@final
class ClipBiasMeter:
    """Measures the bias of clipping from gradients that come one after the other and are not kept.

    It holds 1 + 2 k vectors of a gradient's length for k batch sizes, however many samples come. Groups are made of
    neighbours, so the samples must come in random order. A group that stays incomplete counts for ``sigma`` only.

    Source: arXiv 2305.01588; the measurement is our own.
    """

    @checked
    def __init__(self, c: Limit, *, batch_sizes: BatchSizes = (1,)) -> None:
        """Take the limit.

        Args:
            c: largest norm that is left alone.
            batch_sizes: sizes of the groups that are averaged before they are clipped.
        """
        self.c, self.batch_sizes = float(c), tuple(batch_sizes)
        self._samples = 0
        self._squares = 0.0
        self._total: Tensor | None = None
        self._groups: list[Tensor] = []
        self._shifts: list[Tensor] = []
        self._complete = [0] * len(self.batch_sizes)
        self._clipped = [0] * len(self.batch_sizes)

    @torch.no_grad()
    def add(self, gradient: Tensor) -> None:
        """Count one sample's gradient, of any shape but always the same.

        Raises:
            InputError: NaN or infinity in it, or another length than before.
        """
        flat = gradient.detach().flatten()
        flat = flat.float() if flat.device.type == "mps" else flat.double()
        if self._total is None:
            self._total = torch.zeros_like(flat)
            self._groups = [torch.zeros_like(flat) for _ in self.batch_sizes]
            self._shifts = [torch.zeros_like(flat) for _ in self.batch_sizes]
        if flat.shape != self._total.shape:
            raise InputError(
                f"gradient of sample {self._samples}: expected {self._total.numel()} numbers, got {flat.numel()}"
            )
        square = float(flat.dot(flat))
        if not math.isfinite(square):
            raise InputError(f"gradient of sample {self._samples}: expected finite numbers, got NaN or infinity")
        self._samples += 1
        self._squares += square
        self._total += flat
        for place, size in enumerate(self.batch_sizes):
            self._groups[place] += flat
            if self._samples % size == 0:
                self._close(place, size)

    def _close(self, place: int, size: int) -> None:
        """Clip the mean of a complete group, and keep by how much that moved it."""
        mean = self._groups[place].div_(size)
        norm = float(mean.norm())
        if norm > self.c:
            self._shifts[place].add_(mean, alpha=self.c / norm - 1)
            self._clipped[place] += 1
        self._complete[place] += 1
        self._groups[place].zero_()

    def count_groups_of(self, other: ClipBiasMeter) -> None:
        """Count the groups of another meter of the same settings, but not its samples: they are these, regrouped."""
        for place, shift in enumerate(other._shifts):
            self._shifts[place] += shift
            self._complete[place] += other._complete[place]
            self._clipped[place] += other._clipped[place]

    def report(self) -> ClipBiasReport:
        """What the samples so far tell.

        Raises:
            InputError: fewer than two samples, or fewer than the largest batch size.
        """
        if self._total is None or self._samples < 2:
            raise InputError(f"per-sample gradients: expected at least 2, got {self._samples}")
        if max(self.batch_sizes) > self._samples:
            raise InputError(f"batch_sizes: expected at most the {self._samples} samples, got {self.batch_sizes}")
        mean = self._total / self._samples
        mean_norm = mean.norm().double()
        spread = self._squares - self._samples * float(mean_norm) ** 2
        sigma = math.sqrt(max(spread, 0.0) / (self._samples - 1))
        moved = [shift / many for shift, many in zip(self._shifts, self._complete, strict=True)]
        bias = torch.stack([each.norm().double() for each in moved])
        cosine = torch.stack([_cosine(mean + each, mean) for each in moved])
        shares = [clipped / many for clipped, many in zip(self._clipped, self._complete, strict=True)]
        floors = [clipped_sgd_floor(sigma / math.sqrt(size), c=self.c) for size in self.batch_sizes]
        wide = {"dtype": torch.float64, "device": bias.device}
        return ClipBiasReport(
            self.batch_sizes,
            bias,
            torch.where(bias > 0, bias / mean_norm, 0.0),
            cosine,
            torch.tensor(shares, **wide),
            torch.tensor(floors, **wide),
            torch.tensor(sigma, **wide),
            mean_norm,
        )


@checked
def clip_bias(
    per_sample_grads: Tensor | Sequence[Tensor],
    *,
    c: Limit,
    batch_sizes: BatchSizes = (1,),
    generator: torch.Generator | None = None,
    rounds: Count = 1,
) -> ClipBiasReport:
    """Measure how far clipping moves the mean gradient, per sample and in random groups.

    Args:
        per_sample_grads: (n, ...) tensor or list of n gradients, n >= 2.
        c: largest norm that is left alone.
        batch_sizes: sizes of the groups that are averaged before they are clipped, at most n.
        generator: draws the groups; without one they are neighbours in the order given.
        rounds: how often groups are drawn; their bias is averaged. Above 1 a generator is needed.

    Raises:
        InputError: fewer than two gradients, NaN or infinity in one, or several rounds without a generator.

    Source: arXiv 2305.01588, section 1; see ``ClipBiasMeter`` for gradients that do not fit in memory together.

    Example:
        >>> import torch
        >>> from tether.methods.clipped_sgd_bias.clipping_bias import clip_bias
        >>> gradients = torch.tensor([[-1.0]] * 9 + [[14.0]])  # their mean is 0.5
        >>> report = clip_bias(gradients, c=1.0, batch_sizes=(1, 10))
        >>> report.cosine.tolist()  # clipped one by one they point the wrong way
        [-1.0, 1.0]
        >>> report.clipped_fraction.tolist()
        [0.1, 0.0]
    """
    if rounds > 1 and generator is None:
        raise InputError(f"rounds: expected 1, or more with a generator, got {rounds!r}")
    whole = ClipBiasMeter(c, batch_sizes=batch_sizes)
    for turn in range(rounds):
        meter = whole if turn == 0 else ClipBiasMeter(c, batch_sizes=batch_sizes)
        order = range(len(per_sample_grads)) if generator is None else _shuffled(len(per_sample_grads), generator)
        for row in order:
            meter.add(per_sample_grads[row])
        if turn > 0:
            whole.count_groups_of(meter)
    return whole.report()


def _shuffled(length: int, generator: torch.Generator) -> list[int]:
    return torch.randperm(length, generator=generator, device=generator.device).tolist()


def sample_gradients(model: nn.Module, *, losses: Iterable[Tensor]) -> Iterator[Float[Tensor, " d"]]:
    """The gradient of each loss with respect to all trainable weights of a model, one flat vector after the other.

    A loss may be a number, or a vector with one entry for each sample of a batch: a contrastive loss of n pairs, left
    unreduced, gives n gradients, each with the other pairs as its negatives. ``.grad`` is neither read nor changed.

    Args:
        model: whose trainable parameters count, in the order of ``model.parameters()``.
        losses: with graph; best a generator, so that one batch is held at a time.

    Raises:
        InputError: a model without trainable parameters, or a loss of more than one axis.
    """
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not weights:
        raise InputError(f"{type(model).__name__} has no trainable parameter")
    for loss in losses:
        if loss.ndim > 1:
            raise InputError(f"loss: expected a number or one for each sample, got shape {tuple(loss.shape)}")
        rows = loss.view(-1)
        for place, row in enumerate(rows):
            parts = torch.autograd.grad(row, weights, retain_graph=place + 1 < len(rows), materialize_grads=True)
            yield torch.cat([part.flatten() for part in parts])


@checked
def clipped_sgd_floor(sigma: NonNegative, *, c: Limit) -> float:
    """Order of the gradient norm below which clipped descent does not come: ``min(sigma, sigma^2 / c)``.

    An order of magnitude, not a bound: constants are left out. No step size and no number of steps lowers it.

    Args:
        sigma: deviation of the gradient that is clipped: of one sample, or of a batch's mean.
        c: largest norm that is left alone.

    Source: arXiv 2305.01588, section 3, theorem on stochastic gradients.
    """
    return min(sigma, sigma / c * sigma)


def two_point_floor(sigma: NonNegative, *, c: Limit, u: Positive, batch_size: Count = 1) -> float:
    """Distance from zero at which clipped descent settles on ``x^2 / 2``; see ``two_point_stationary_point``."""
    return abs(two_point_stationary_point(sigma, c=c, u=u, batch_size=batch_size))


@checked
def two_point_stationary_point(sigma: NonNegative, *, c: Limit, u: Positive, batch_size: Count = 1) -> float:
    """Where clipped descent settles on ``x^2 / 2`` under skewed noise of two values, exactly.

    The noise is ``-sigma / u`` with probability ``u^2 / (1 + u^2)`` and else ``sigma * u``; its mean is 0 and its
    deviation sigma. For single samples and ``u < 1`` the point is ``c * u^2 - sigma * u`` where the large value is
    clipped (``sigma / u >= c``) and 0 where it is not; ``u > 1`` is the mirrored noise, and mirrors the point.
    ``u = min(0.9, sigma / (2 c))`` is the worst skew below 0.9: the distance is ``sigma^2 / (4 c)`` for
    ``c >= sigma / 1.8``. For a clipped mean of several samples the point is found by bisection; it may lie on either
    side of 0, since a mean of several skewed values can be clipped more often on the side of the small one.

    Args:
        sigma: deviation of the noise.
        c: largest norm that is left alone.
        u: skew of the noise (not 1, which is symmetric).
        batch_size: samples that are averaged before the clipping.

    Source: our own instance of the lower bound in arXiv 2305.01588.
    """
    if u == 1:
        raise InputError(f"u: expected a number other than 1, got {u!r}")
    if u > 1:
        return -two_point_stationary_point(sigma, c=c, u=1 / u, batch_size=batch_size)
    if batch_size == 1:
        return min(0.0, u * (c * u - sigma))
    rare = u * u / (1 + u * u)
    cases = [
        (
            math.comb(batch_size, many) * rare**many * (1 - rare) ** (batch_size - many),
            sigma * ((batch_size - many) * u - many / u) / batch_size,
        )
        for many in range(batch_size + 1)
    ]

    def drift(x: float) -> float:
        return math.fsum(chance * max(-c, min(c, x + noise)) for chance, noise in cases)

    low, high = -sigma / u, sigma / u  # beyond the largest noise every sample has the same sign
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if drift(middle) < 0 else (low, middle)
    return (low + high) / 2


@checked
def clipped_sgd(
    gradient: Callable[[Tensor], Tensor],
    *,
    x0: Float[Tensor, "... d"],
    noise: Iterable[Float[Tensor, "b ... d"]],
    lr: Positive,
    c: Limit | Tensor,
    mode: ClipMode,
) -> Float[Tensor, "t ... d"]:
    """Descend with noisy gradients that are clipped; the reference loop of the theory, for many chains at once.

    Args:
        gradient: the exact gradient at (..., d) points.
        x0: where the chains start.
        noise: for each step what is added to the gradient of each of b samples.
        lr: step size.
        c: largest norm over the last axis that is left alone; a tensor must broadcast over (..., 1).
        mode: ``sample`` clips each sample's gradient and averages, ``batch`` clips the average, ``none`` neither.

    Returns:
        The points after each step.

    Source: arXiv 2305.01588, section 2.
    """
    x, points = x0, []
    for each in noise:
        rows = gradient(x) + each
        if mode == "sample":
            step = _clipped(rows, c).mean(dim=0)
        else:
            step = rows.mean(dim=0)
            step = _clipped(step, c) if mode == "batch" else step
        x = x - lr * step
        points.append(x)
    if not points:
        raise InputError("noise: expected at least one step, got none")
    return torch.stack(points)


def _clipped(vectors: Tensor, c: float | Tensor) -> Tensor:
    return vectors * (c / vectors.norm(dim=-1, keepdim=True)).clamp(max=1.0)


def _cosine(one: Tensor, other: Tensor) -> Float[Tensor, ""]:
    return (one.dot(other).double() / (one.norm().double() * other.norm().double())).clamp(-1.0, 1.0)
