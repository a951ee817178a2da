"""What experts said of every pixel, told again by heads on the image tower's last map, as a term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import NonNegative, checked
from tether.core.types import Loss
from tether.methods.cliptex.loss import NormalForm, PseudoLabelLoss
from tether.models.heads.dense_heads import DenseHead
from tether.space.heat_maps import grid_of
from tether.training.terms.term import Term, TermInputs


class PseudoLabelTerm(Term):
    """``PseudoLabelLoss`` between heads and the labels that came with the images (CLIPTeX, arXiv 2310.14108)."""

    @checked
    def __init__(
        self,
        *,
        image: str = "image",
        seg: str | None = None,
        depth: str | None = None,
        normal: str | None = None,
        seg_weight: NonNegative = 0.1,
        depth_weight: NonNegative = 0.1,
        normal_weight: NonNegative = 0.1,
        normal_form: NormalForm = "l1",
    ) -> None:
        """Take the view, and a head for each task; None leaves a task out.

        Args:
            image: view with ``want: map`` whose source has labels, see ``data.dense_labels``.
            seg: a ``dense`` head of classes.
            depth: likewise.
            normal: likewise.
            seg_weight: see ``PseudoLabelLoss``.
            depth_weight: likewise.
            normal_weight: likewise.
            normal_form: likewise.

        Raises:
            InputError: no head.
        """
        heads = {"seg": seg, "depth": depth, "normal": normal}
        self.heads = {task: name for task, name in heads.items() if name is not None}
        if not self.heads:
            raise InputError(f"pseudo_labels: expected a head for one of {', '.join(heads)}, got none")
        self._image, self.views = image, {"image": image}
        self._loss = PseudoLabelLoss(seg=seg_weight, depth=depth_weight, normal=normal_weight, normal_form=normal_form)

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term; it logs the loss of each task without its weight.

        Raises:
            InputError: a view without labels or without ``want: map``, or a head of another task or number of classes.
        """
        view = seen.views[self._image]
        tokens, size = view.features.tokens, (view.rows.shape[2], view.rows.shape[3])
        widths = {cast(DenseHead, seen.heads[name]).inner.in_channels for name in self.heads.values()}
        if tokens is None or widths != {tokens.shape[2]}:
            raise InputError(f"pseudo_labels: expected want: map in the view {self._image!r}")
        features = tokens.transpose(1, 2).unflatten(2, grid_of(tokens.shape[1], size=size))
        predicted = {}
        for task, name in self.heads.items():
            head = cast(DenseHead, seen.heads[name])
            if task not in view.about:
                raise InputError(
                    f"pseudo_labels: no labels of {task} with the view {self._image!r}: expected contents: {{labels: "
                    "{store: FOLDER}} with that task, and views cut out under contents, not by the view's own crop"
                )
            classes = seen.batch.extra.get("seg_classes", head.classes)
            if head.task != task or (task == "seg" and head.classes != classes):
                wanted = f"task: {task}" + (f", classes: {classes}" if task == "seg" else "")
                got = f"task: {head.task}" + (f", classes: {head.classes}" if head.task == "seg" else "")
                raise InputError(f"pseudo_labels: {name}: expected a dense head with {wanted}, got {got}")
            height, width = view.about[task].shape[-2:]
            predicted[task] = head(features, size=(height, width))
        labels = {task: view.about[task] for task in self.heads}
        valid = {}
        if "depth" in labels:
            valid["depth"] = labels["depth"] >= 0
        if "normal" in labels:
            valid["normal"] = (labels["normal"] != 0).any(dim=1, keepdim=True)
        return (self._loss(predicted, labels, valid=valid, gather=gather),)
