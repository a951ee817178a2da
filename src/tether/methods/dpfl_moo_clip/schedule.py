"""A clipping norm that trades what it cuts off gradients against the noise that it brings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

from tether.core.errors import InputError
from tether.core.ranges import Count, Inner, NonNegative, Positive, checked


@checked
def gradient_noise(noise_multiplier: NonNegative, count_std: Positive) -> float:
    """The noise multiplier of gradients with which they and the count together cost no more than ``noise_multiplier``.

    ``(z^-2 - (2 s)^-2)^(-1/2)``: each sample moves the count, whose bits are centred at a half, by a half at most.

    Args:
        noise_multiplier: what an accountant is told.
        count_std: s, standard deviation of the noise on the count of clipped samples.

    Raises:
        InputError: ``noise_multiplier >= 2 * count_std``: the count alone would cost more.

    Source: Andrew, Thakkar, McMahan, Ramaswamy, arXiv 1905.03871, theorem 1.
    """
    if noise_multiplier >= 2 * count_std:
        raise InputError(
            f"noise_multiplier: expected less than twice count_std, {2 * count_std:g}, as the release of the count "
            f"alone would cost more, got {noise_multiplier:g}"
        )
    return 0.0 if not noise_multiplier else (noise_multiplier**-2 - (2 * count_std) ** -2) ** -0.5


@final
class MooClipSchedule:
    """The clipping norm C of DP-SGD as a descent on ``J(C) = kappa * U(C) + V(C)``, a round a step.

    U is the mean excess of the samples' gradient norms over C, whose derivative is minus the share b of clipped
    samples; ``V = noise_multiplier * C * sqrt(dim) / batch_size`` is the size of the noise. So
    ``dJ/dC = -kappa * b + noise_multiplier * sqrt(dim) / batch_size``, and b with noise is all that is released. C is
    multiplied by ``exp(-lr * dJ/dC)``, or ``lr * dJ/dC`` is taken off it, and kept within bounds.

    It comes to rest where b is ``noise_multiplier * sqrt(dim) / (kappa * batch_size)``: it is the tracking of a
    quantile (arXiv 1905.03871), set by ``kappa``. With ``lr * kappa`` for Opacus' ``clipbound_learning_rate`` and
    ``target_unclipped_quantile`` it is the rule of Opacus' AdaClip and of Flower's adaptive clipping, number for
    number.

    Attributes:
        c: the norm in force, for a whole round.
        round: updates so far.
        kappa: weight of the excess.
        count_std: standard deviation of the noise on a count of clipped samples.

    Source: arXiv 2503.21159 for the scalarised objective. Its clipping loss could not be read: this one is ours.

    Example:
        >>> from tether.methods.dpfl_moo_clip import MooClipSchedule
        >>> schedule = MooClipSchedule(1.0, noise_multiplier=1.5, dim=650, batch_size=64)
        >>> round(schedule.update(0.9), 4), round(schedule.target_unclipped_quantile, 4)
        (1.1003, 0.5)
    """

    @checked
    def __init__(
        self,
        c0: Positive = 1.0,
        kappa: Positive | None = None,
        *,
        noise_multiplier: NonNegative,
        dim: Count,
        batch_size: Count,
        target: Inner | None = None,
        lr: Positive = 0.2,
        geometric: bool = True,
        bounds: tuple[float, float] = (0.01, 100.0),
        count_std: NonNegative | None = None,
    ) -> None:
        """Take the settings.

        Args:
            c0: the first norm.
            kappa: weight of the excess; by default what makes ``target`` the point of rest.
            noise_multiplier: of the gradients, as an accountant is told.
            dim: numbers in a gradient.
            batch_size: samples of a batch that are expected.
            target: share of samples that shall be clipped; a half if ``kappa`` is None, too. Without noise it is
                ``kappa`` alone that must be given.
            lr: of C.
            geometric: multiply C, or else subtract.
            bounds: of C.
            count_std: noise on the count; the greater of ``batch_size / 20`` and ``noise_multiplier`` by default. 0 is
                no noise: then the share is not private, and ``attach_to_opacus`` refuses it.

        Raises:
            InputError: both kappa and target, a kappa whose point of rest is no share below 1, bounds that do not rise
                or leave out ``c0``, or ``noise_multiplier >= 2 * count_std > 0``.
        """
        if kappa is not None and target is not None:
            raise InputError("kappa, target: expected one of both: a target sets kappa")
        low, high = (float(one) for one in bounds)
        if not 0 < low < high < math.inf or not low <= c0 <= high:
            raise InputError(f"bounds: expected two numbers above 0 that rise, with c0 = {c0:g} between, got {bounds}")
        self.noise_multiplier, self.dim, self.batch_size = float(noise_multiplier), dim, batch_size
        self.lr, self.geometric, self.bounds, self.c, self.round = float(lr), geometric, (low, high), float(c0), 0
        pull = self.noise_multiplier * math.sqrt(dim) / batch_size
        if kappa is None and not pull:
            raise InputError("kappa: expected a number, as without noise no target can set it")
        self.kappa = pull / (0.5 if target is None else target) if kappa is None else float(kappa)
        if pull / self.kappa >= 1:
            raise InputError(
                f"kappa: at {self.kappa:g} the noise outweighs all clipping (point of rest {pull / self.kappa:.3g} of "
                f"the samples clipped); expected more than {pull:g}, larger batches or less noise"
            )
        self._pull = pull
        self.count_std = max(batch_size / 20, self.noise_multiplier) if count_std is None else float(count_std)
        if self.count_std:
            gradient_noise(self.noise_multiplier, self.count_std)

    @property
    def target_unclipped_quantile(self) -> float:
        """Share of samples below C where it rests."""
        return 1 - self._pull / self.kappa

    def slope(self, noisy_fraction: float) -> float:
        """``dJ/dC`` at a share of clipped samples."""
        return self._pull - self.kappa * noisy_fraction

    def update(self, noisy_fraction: float) -> float:
        """Move C by a share of clipped samples that was released with noise, and give it.

        Args:
            noisy_fraction: the mean over clients, from 0 to 1; counts without noise leak.

        Raises:
            InputError: NaN, or no share.
        """
        if not 0 <= noisy_fraction <= 1:
            raise InputError(f"noisy_fraction: expected a share from 0 to 1, got {noisy_fraction}")
        slope = self.slope(float(noisy_fraction))
        moved = self.c * math.exp(-self.lr * slope) if self.geometric else self.c - self.lr * slope
        self.c, self.round = min(max(moved, self.bounds[0]), self.bounds[1]), self.round + 1
        return self.c

    def state_dict(self) -> dict[str, Any]:
        """What moves."""
        return {"c": self.c, "round": self.round}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave.

        Raises:
            InputError: other keys, or a norm out of bounds.
        """
        if state.keys() != {"c", "round"} or not self.bounds[0] <= state["c"] <= self.bounds[1]:
            raise InputError(f"state: expected c within {self.bounds} and round, got {dict(state)!r:.100}")
        self.c, self.round = float(state["c"]), int(state["round"])
