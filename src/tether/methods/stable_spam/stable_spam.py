"""Stable-SPAM: Adam whose gradients are held to the history of their largest entry and of their norm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, final

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.norms import add_over_shards_, local_squares, send
from tether.core.ranges import Count, Decay, NonNegative, Rate, Share, Whole, checked
from tether.optim.adam_kernel import adam_
from tether.optim.optimizer_base import (
    Moving,
    Scalar,
    Stepper,
    by_group,
    flags,
    gather,
    pieces,
    readable,
    scalars,
    scatter,
)
from tether.optim.param_groups import Params


@torch.no_grad()
def maxima(parts: Sequence[Tensor], *, shards: Sequence[tuple[dist.ProcessGroup, ...]]) -> Float[Tensor, " n"]:
    """Largest absolute value of each tensor; one read of the memory, and nothing waits for an accelerator.

    Args:
        parts: this process's part of each of n tensors, real; an empty part counts as 0.
        shards: for each, the groups whose processes hold the other parts, as ``core.norms.local_part`` gives them.

    Returns:
        (n,) on the first part's device, float64 where it has it; NaN where a tensor holds one.
    """
    device = parts[0].device
    wide = torch.float32 if device.type == "mps" else torch.float64
    largest = torch.stack([send(largest_entry(part), device).to(wide) for part in parts])
    most_over_shards_(largest, shards=shards)
    return largest


@torch.no_grad()
def most_over_shards_(values: Float[Tensor, " n"], *, shards: Sequence[tuple[dist.ProcessGroup, ...]]) -> None:
    """Take the largest of each value over the groups that hold the other parts; one call for each group.

    A value that is not finite in any process becomes NaN where parts were compared.
    """
    groups = {id(group): group for owned in shards for group in owned}
    for key, group in groups.items():
        rows = torch.tensor([row for row, owned in enumerate(shards) if any(id(member) == key for member in owned)])
        places = send(rows, values.device)
        # A maximum over processes may lose a NaN, so what is not finite travels as infinity and comes back as NaN.
        part = values.index_select(0, places).nan_to_num(nan=torch.inf)
        dist.all_reduce(part, op=dist.ReduceOp.MAX, group=group)
        values.index_copy_(0, places, torch.where(part.isinf(), torch.nan, part))


def largest_entry(part: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Largest absolute value of a tensor, NaN if it holds one, 0 if it is empty."""
    if part.numel() == 0:
        return part.new_zeros(())
    if part.device.type == "cpu":  # four times the speed of the infinity norm there
        least, most = torch.aminmax(part)
        return torch.maximum(-least, most)
    return torch.linalg.vector_norm(part, torch.inf)


def ada_clip(
    largest: Float[Tensor, " n"], *, mean: Float[Tensor, " n"], step: Float[Tensor, " n"], gamma: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The limit on single entries of a gradient: the bias-corrected exponential mean of its largest entry.

    arXiv 2502.17055, section 4 (AdaClip). An entry above the limit is brought to it by ``clip_entries``.

    Args:
        largest: largest absolute entry of each tensor now, before any clipping.
        mean: the exponential mean so far, 0 at first.
        step: how many values the mean will hold, this one counted (>= 1).
        gamma: weight of the past, in [0, 1).

    Returns:
        The new mean, and the limit.
    """
    mean = gamma * mean + (1 - gamma) * largest
    return mean, mean / (1 - gamma**step)


def clip_entries(gradient: Tensor, *, largest: Scalar, limit: Scalar) -> Tensor:
    """Scale the entries beyond ``limit`` so that the largest one lands on it; a new tensor."""
    if isinstance(limit, Tensor) or isinstance(largest, Tensor):
        return torch.where(gradient.abs() > limit, gradient * (limit / largest), gradient)
    if not limit < largest:
        return gradient.clone()
    beyond = F.hardshrink(gradient, limit)  # on a CPU ten times as fast as choosing entry by entry
    return (gradient - beyond).add_(beyond, alpha=limit / largest)


def ada_norm(
    norm: Float[Tensor, " n"],
    *,
    mean: Float[Tensor, " n"],
    square: Float[Tensor, " n"],
    step: Float[Tensor, " n"],
    gamma1: float,
    gamma2: float,
    eps: float,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The length every gradient is brought to: its norm's mean over the root of its mean square, so about 1.

    arXiv 2502.17055, section 4 (AdaGN); both means are exponential and bias-corrected.

    Args:
        norm: L2 norm of each tensor now, after ``ada_clip``.
        mean: exponential mean of the norms so far, 0 at first.
        square: exponential mean of their squares so far, 0 at first.
        step: how many values the means will hold, this one counted (>= 1).
        gamma1: weight of the past in the mean, in [0, 1).
        gamma2: weight of the past in the mean square, in [0, 1).
        eps: added to the root.

    Returns:
        The new mean, the new mean square, and the length; a gradient of zeros stays as it is.
    """
    mean = gamma1 * mean + (1 - gamma1) * norm
    square = gamma2 * square + (1 - gamma2) * norm.square()
    length = (mean / (1 - gamma1**step)) / ((square / (1 - gamma2**step)).sqrt() + eps)
    return mean, square, length


@final
class StableSPAM(Stepper):
    """Adam with AdaClip on single entries, AdaGN on each tensor's norm, and moments that start again now and then.

    Source: arXiv 2502.17055 and the released StableSPAM class, which ``reset_mode="official"`` follows to the letter:
    on a reset the update is still made with the old moments, as if they were one step old, and the step's gradient is
    then forgotten; and the clipping counters start again while what they correct does not, so that AdaClip is all but
    off after the first reset. ``clean`` empties the moments before they are used and leaves the other counters alone.
    Of our own: every counter is saved; a tensor whose gradient is not finite is left alone, and its state too.

    Each tensor's gradient has a norm of about 1 whatever its size was. So a clipper before it changes nothing that
    lasts, one after it would cut everything, and small tensors (biases, the logit scale) take steps as large as they
    would with Adam while their gradients no longer fade: give them a smaller learning rate if they drift.

    Example:
        >>> import torch
        >>> from tether.methods.stable_spam import StableSPAM
        >>> layer = torch.nn.Linear(4, 1)
        >>> optimizer, before = StableSPAM(layer.parameters(), lr=1e-3), layer.weight.detach().clone()
        >>> for scale in (1.0, 1.0, 1e6):  # the last batch is a bad one
        ...     optimizer.zero_grad()
        ...     (scale * layer(torch.ones(8, 4)).mean()).backward()
        ...     optimizer.step()
        >>> bool((layer.weight - before).abs().max() < 0.01)
        True
    """

    figures: ClassVar[frozenset[str]] = frozenset(
        {"calls", "step", "norm_step", "largest_mean", "norm_mean", "norm_square"}
    )

    @checked
    def __init__(
        self,
        params: Params,
        *,
        lr: Rate = 1e-3,
        betas: tuple[Decay, Decay] = (0.9, 0.999),
        eps: NonNegative = 1e-8,
        weight_decay: Rate = 0.0,
        amsgrad: bool = False,
        gamma1: Decay | Literal[-1] = 0.7,
        gamma2: Decay = 0.9,
        gamma3: Decay = 0.999,
        total_steps: Count | None = None,
        eta_min: Share = 0.5,
        reset_interval: Whole = 1000,
        reset_mode: Literal["official", "clean"] = "official",
        inplace_grad: bool = False,
    ) -> None:
        """Take parameters or groups; a group's own settings win over these.

        Args:
            params: parameters, or groups as ``parameter_groups`` makes them.
            lr: learning rate before the schedule.
            betas: decay of the first and second moment.
            eps: added to the root of the second moment, and to AdaGN's root; 0 makes NaN of an entry that never
                had a gradient.
            weight_decay: share of the weight, times the learning rate, taken off before each step.
            amsgrad: divide by the largest second moment so far, which no reset empties.
            gamma1: weight of the past in the mean of the norms; -1 takes the first of ``betas``.
            gamma2: weight of the past in the mean of their squares.
            gamma3: weight of the past in the mean of the largest entry.
            total_steps: over so many calls ``gamma1`` and the first of ``betas`` are multiplied by a half cosine from 1
                to ``eta_min``, after which it rises again, as in the released code, whose scripts all use it. None =
                not at all.
            eta_min: the lowest value of that factor.
            reset_interval: calls from one reset of the moments to the next; 0 = never.
            reset_mode: ``official`` or ``clean``, see above.
            inplace_grad: leave in ``.grad`` what AdaClip made of it, as the released code does.
        """
        super().__init__(params, locals())

    def _tensors(self, group: Mapping[str, Any]) -> dict[str, float]:
        return dict.fromkeys(("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])), 0.0)

    def _advance(self, moving: Sequence[Moving]) -> None:
        for each in moving:
            if "exp_avg" not in each.state:
                self._begin(each)
        calls = self._tick(moving)
        for members in by_group(moving):
            self._advance_group(members, calls=calls)

    def _advance_group(self, members: Sequence[Moving], *, calls: int) -> None:
        group = members[0].group
        (beta1, beta2), interval = group["betas"], group["reset_interval"]
        fade = _cosine(calls, total=group["total_steps"], least=group["eta_min"])
        reset = bool(interval) and calls % interval == 0
        gamma1 = beta1 if group["gamma1"] == -1 else group["gamma1"]
        shards = [each.shards for each in members]

        sweep = _Sweep(members)
        largest = sweep.largest
        most_over_shards_(largest, shards=shards)
        finite = largest.isfinite()
        count = gather(members, "norm_step") + 1
        largest_mean, limit = ada_clip(largest, mean=gather(members, "largest_mean"), step=count, gamma=group["gamma3"])
        sweep.limit_(torch.where(finite, largest, 1.0), torch.where(finite, limit, math.inf))
        if group["inplace_grad"]:
            sweep.write_back_()
        squares = sweep.squares()
        add_over_shards_(squares, shards)
        finite = finite & squares.isfinite()  # an accelerator's float32 may overflow where no entry does
        norm = torch.where(finite, squares.sqrt(), 1.0)
        norm_mean, norm_square, length = ada_norm(
            norm,
            mean=gather(members, "norm_mean"),
            square=gather(members, "norm_square"),
            step=count,
            gamma1=gamma1 * fade,
            gamma2=group["gamma2"],
            eps=group["eps"],
        )
        factor = torch.where(norm > 0, length / norm, 1.0)
        step = torch.ones_like(count) if reset else gather(members, "step") + 1

        skips = flags(~finite)
        kept = scalars(torch.where(finite, 0.0, 1.0))
        for row, (each, times, number, skip, keep) in enumerate(
            zip(members, scalars(factor), scalars(step), skips, kept, strict=True)
        ):
            if skip is True:
                continue
            if reset and group["reset_mode"] == "clean":
                _empty_(each, keep)
            adam_(
                each,
                (piece * times for piece in sweep.clipped(row)),
                lr=group["lr"],
                beta1=beta1 * fade,
                beta2=beta2,
                eps=group["eps"],
                step=number,
                weight_decay=group["weight_decay"],
                skip=skip if isinstance(skip, Tensor) else None,
            )
            if reset and group["reset_mode"] == "official":
                _empty_(each, keep)
        new = {
            "step": step,
            "norm_step": torch.ones_like(count) if reset and group["reset_mode"] == "official" else count,
            "largest_mean": largest_mean,
            "norm_mean": norm_mean,
            "norm_square": norm_square,
        }
        scatter(members, **{key: torch.where(finite, value, gather(members, key)) for key, value in new.items()})


def _cosine(calls: int, *, total: int | None, least: float) -> float:
    return 1.0 if total is None else least + (1 - least) * (1 + math.cos(math.pi * calls / (total + 1))) / 2


class _Sweep:
    """One read of all gradients, and then only of those pieces that AdaClip changes.

    On the host the largest entry and the squares of every piece are kept as numbers, so that what lies within the
    limit is neither read nor written again for the norm. On an accelerator every tensor is one piece, and all are
    clipped, since nobody there knows which need it.
    """

    def __init__(self, members: Sequence[Moving]) -> None:
        self.members = members
        self.most: Sequence[Scalar] = ()
        self.limits: Sequence[Scalar] = ()
        self.tops: list[list[float]] = []
        self.sums: list[list[float]] = []
        if not readable(members[0].gradient):
            self.largest = maxima([each.gradient for each in members], shards=[()] * len(members))
            return
        tops, sums, lengths = [], [], []
        for each in members:
            before = len(tops)
            for piece in each.gradient_pieces():
                tops.append(largest_entry(piece))
                sums.append(torch.dot(piece, piece))
            lengths.append(len(tops) - before)
        values = iter(torch.stack(tops).tolist() if tops else [])
        added = iter(torch.stack(sums).tolist() if sums else [])
        for length in lengths:
            self.tops.append([next(values) for _ in range(length)])
            self.sums.append([next(added) for _ in range(length)])
        whole = [math.nan if any(map(math.isnan, row)) else max(row, default=0.0) for row in self.tops]
        self.largest = torch.tensor(whole, dtype=torch.float64)

    def limit_(self, largest: Tensor, limit: Tensor) -> None:
        """Take the largest entry of each whole tensor, and AdaClip's limit."""
        self.most, self.limits = scalars(largest), scalars(limit)

    def clipped(self, row: int) -> Iterator[Tensor]:
        """The pieces of one gradient after AdaClip; one that needed no change may be the gradient itself."""
        return (piece for piece, _ in self._pieces(row))

    def _pieces(self, row: int) -> Iterator[tuple[Tensor, bool]]:
        """Each piece after AdaClip, and whether it was changed."""
        limit, most = self.limits[row], self.most[row]
        for place, piece in enumerate(self.members[row].gradient_pieces()):
            if self.tops and not self.tops[row][place] > limit:
                yield piece, False
            else:
                yield clip_entries(piece, largest=most, limit=limit), True

    def squares(self) -> Float[Tensor, " n"]:
        """Squared norm of what this process holds of each gradient after AdaClip."""
        if not self.tops:
            return torch.cat([local_squares(list(self.clipped(row))) for row in range(len(self.members))])
        rows = []
        for row in range(len(self.members)):
            total = 0.0
            for (piece, changed), known in zip(self._pieces(row), self.sums[row], strict=True):
                fresh = changed or not math.isfinite(known)
                total += float(local_squares([piece])) if fresh else known
            rows.append(total)
        return torch.tensor(rows, dtype=torch.float64)

    def write_back_(self) -> None:
        """Put the clipped entries into the gradients; nothing is left to clip."""
        for row, each in enumerate(self.members):
            flat = each.gradient.view(-1) if each.gradient.is_contiguous() else each.gradient.reshape(-1)
            for place, ((target,), (piece, changed)) in enumerate(zip(pieces(flat), self._pieces(row), strict=True)):
                if changed:
                    target.copy_(piece)
                    if self.sums:
                        self.sums[row][place] = float(local_squares([piece]))
            if not each.gradient.is_contiguous():
                each.gradient.copy_(flat.view_as(each.gradient))
        self.limits = [math.inf] * len(self.members)


def _empty_(each: Moving, keep: Scalar) -> None:
    for key in ("exp_avg", "exp_avg_sq"):
        each.local(key).mul_(keep)
