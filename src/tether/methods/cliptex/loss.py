"""What heads predict for each pixel against what experts said of it: classes, depth, surface normals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import NonNegative, checked
from tether.core.types import Loss
from tether.data.dense_labels import IGNORED, TASKS, UNIT

NormalForm = Literal["l1", "cosine"]
Ignored = Annotated[int, Ge(-(2**31)), Le(2**31 - 1)]


@checked
def segmentation_loss(
    logits: Float[Tensor, "b k h w"],
    label: Integer[Tensor, "b h w"],
    *,
    ignore_index: Ignored = IGNORED,
    gather: Gather = LOCAL,
) -> Float[Tensor, ""]:
    """Cross-entropy of each pixel's class, the mean over all pixels of the whole batch that have one; 0 without any.

    Args:
        logits: of k classes; the softmax is taken in float32 at least.
        label: 0 to k - 1, or ``ignore_index``.
        ignore_index: says that a pixel has no label.
        gather: counts of all processes.

    Raises:
        InputError: other shapes, or a class that there is not; on an accelerator, which is not waited for, torch's own
            check of the cross-entropy stands in.

    Example:
        >>> import torch
        >>> from tether.methods.cliptex.loss import segmentation_loss
        >>> logits, nothing = torch.randn(2, 3, 4, 4, requires_grad=True), torch.full((2, 4, 4), 255)
        >>> segmentation_loss(logits, nothing).item()
        0.0
    """
    if label.shape != (logits.shape[0], *logits.shape[2:]):
        raise InputError(f"label: expected {(logits.shape[0], *logits.shape[2:])}, got {tuple(label.shape)}")
    label, classes = label.long(), logits.shape[1]
    known = label != ignore_index
    if label.device.type == "cpu" and (strange := known & ((label < 0) | (label >= classes))).any():
        got = int(label[strange][0])
        raise InputError(f"label: expected classes 0 to {classes - 1}, or {ignore_index} for none, got {got}")
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(wide, label, ignore_index=ignore_index, reduction="sum")
    return total / _share(known, gather, each=1)


def depth_loss(
    predicted: Float[Tensor, "b 1 h w"],
    label: Float[Tensor, "b 1 h w"],
    *,
    valid: Bool[Tensor, "b 1 h w"] | None = None,
    gather: Gather = LOCAL,
) -> Float[Tensor, ""]:
    """Absolute difference, the mean over the valid pixels of the whole batch; 0 without any.

    Args:
        predicted: depth.
        label: of the same scale, such as each image's own from 0 to 1; whatever it is where not valid.
        valid: which pixels have one; None is all.
        gather: counts of all processes.

    Raises:
        InputError: other shapes.
    """
    valid = _valid(predicted, label, valid)
    difference = torch.where(valid, predicted - label, 0.0)
    return difference.abs().sum() / _share(valid, gather, each=1)


@checked
def normal_loss(
    predicted: Float[Tensor, "b 3 h w"],
    label: Float[Tensor, "b 3 h w"],
    *,
    valid: Bool[Tensor, "b 1 h w"] | None = None,
    form: NormalForm = "l1",
    gather: Gather = LOCAL,
) -> Float[Tensor, ""]:
    """How far predicted directions, scaled to length 1, lie from normals, the mean over valid pixels; 0 without any.

    Args:
        predicted: directions of any length.
        label: of length 1 where valid, to 0.01; on an accelerator, which is not waited for, nothing is checked.
        valid: which pixels have one; None is all.
        form: ``l1``, the mean absolute difference of the three numbers; or ``cosine``, one minus the cosine.
        gather: counts of all processes.

    Raises:
        InputError: other shapes, or labels of another length.
    """
    valid = _valid(predicted, label, valid)
    if label.device.type == "cpu":
        lengths = label.norm(dim=1, keepdim=True)
        if (off := valid & ~((lengths - 1).abs() <= UNIT)).any():
            raise InputError(f"label: expected normals of length 1, got one of {float(lengths[off][0]):.4g}")
    unit = F.normalize(predicted, dim=1)
    if form == "cosine":
        far = torch.where(valid, 1 - (unit * label).sum(dim=1, keepdim=True), 0.0)
        return far.sum() / _share(valid, gather, each=1)
    return torch.where(valid, unit - label, 0.0).abs().sum() / _share(valid, gather, each=3)


class PseudoLabelLoss:
    """The weighted sum of the losses of the tasks that there are predictions for (CLIPTeX, arXiv 2310.14108).

    Added to the contrastive loss. A task without one labelled pixel in the batch adds exactly 0, and its head gets a
    gradient of zeros.

    The paper gives neither the weights nor the form of the losses on depth and normals; these are ours. Weights stay
    what they are; losses differ by up to ten times in size, so they are logged apart.

    Example:
        >>> import torch
        >>> from tether.methods.cliptex.loss import PseudoLabelLoss
        >>> predicted = {"depth": torch.zeros(1, 1, 2, 2), "seg": torch.zeros(1, 4, 2, 2)}
        >>> labels = {"depth": torch.ones(1, 1, 2, 2), "seg": torch.full((1, 2, 2), 255)}
        >>> loss = PseudoLabelLoss()(predicted, labels)
        >>> round(loss.total.item(), 4), {name: value.item() for name, value in loss.terms.items()}
        (0.1, {'seg': 0.0, 'depth': 1.0})
    """

    @checked
    def __init__(
        self,
        *,
        seg: NonNegative = 0.1,
        depth: NonNegative = 0.1,
        normal: NonNegative = 0.1,
        normal_form: NormalForm = "l1",
        ignore_index: Ignored = IGNORED,
    ) -> None:
        """Take the settings.

        Args:
            seg: weight of ``segmentation_loss``.
            depth: of ``depth_loss``.
            normal: of ``normal_loss``.
            normal_form: its form.
            ignore_index: class of pixels without one.
        """
        self.weights = {"seg": seg, "depth": depth, "normal": normal}
        self._form: NormalForm = normal_form
        self._ignore = ignore_index

    def __call__(
        self,
        predicted: Mapping[str, Tensor],
        labels: Mapping[str, Tensor],
        *,
        valid: Mapping[str, Tensor] | None = None,
        gather: Gather = LOCAL,
    ) -> Loss:
        """The sum, and each task's own loss without its weight.

        Args:
            predicted: by task, ``seg``, ``depth`` and ``normal``, at the size of the labels.
            labels: by task.
            valid: (b, 1, h, w) bool by task, for depth and normals; what is not there is valid.
            gather: counts of all processes.

        Raises:
            InputError: a task that there is not, no task, or one without labels.
        """
        if not predicted or predicted.keys() - {*TASKS}:
            raise InputError(f"predicted: expected some of {', '.join(TASKS)}, got {', '.join(predicted) or 'none'}")
        if lacking := [task for task in predicted if task not in labels]:
            raise InputError(f"labels: expected those of {', '.join(lacking)}, got {', '.join(labels) or 'none'}")
        seen = valid or {}
        make: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
            "seg": lambda x, y: segmentation_loss(x, y, ignore_index=self._ignore, gather=gather),
            "depth": lambda x, y: depth_loss(x, y, valid=seen.get("depth"), gather=gather),
            "normal": lambda x, y: normal_loss(x, y, valid=seen.get("normal"), form=self._form, gather=gather),
        }
        losses = {task: make[task](predicted[task], labels[task]) for task in TASKS if task in predicted}
        total = torch.stack([self.weights[task] * loss for task, loss in losses.items()]).sum()
        return Loss(total, {task: loss.detach() for task, loss in losses.items()})


def _valid(predicted: Tensor, label: Tensor, valid: Tensor | None) -> Tensor:
    if predicted.shape != label.shape:
        raise InputError(f"label: expected {tuple(predicted.shape)}, as is predicted, got {tuple(label.shape)}")
    one = (len(label), 1, *label.shape[2:])
    if valid is None:
        return torch.ones(one, dtype=torch.bool, device=label.device)
    if valid.shape != one or valid.dtype != torch.bool:
        raise InputError(f"valid: expected bool {one}, got {valid.dtype} {tuple(valid.shape)}")
    return valid


def _share(valid: Tensor, gather: Gather, *, each: int) -> Tensor:
    """This process's part of the numbers of all, at least one: sums over it average to the mean of the whole batch."""
    return (each * gather(valid.sum()[None]).sum()).clamp(min=1) / gather.world
