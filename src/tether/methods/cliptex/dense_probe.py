"""What a frozen image tower knows of every pixel: a linear map from its patches to classes, depth and normals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, Positive, checked
from tether.data.dense_labels import IGNORED, TASKS, LabelStore, Task, moved, unknown
from tether.data.images import fitted
from tether.data.in_order import ordered
from tether.models.features.mean_patches import patch_tokens
from tether.space.heat_maps import grid_of


@dataclass(frozen=True, slots=True)
class DenseScores:
    """How well the map says what held-out pixels are; what was not asked is None.

    Attributes:
        miou: mean over classes of the intersection over union of what was said and what is; classes that are neither
            said nor there are left out.
        class_iou: by class.
        accuracy: share of the pixels with the right class.
        depth_error: mean absolute difference of depth, which lies from 0 to 1.
        normal_degrees: mean angle.
        images: that it was fitted on, and measured on.
    """

    miou: float | None = None
    class_iou: Mapping[int, float] = field(default_factory=dict)
    accuracy: float | None = None
    depth_error: float | None = None
    normal_degrees: float | None = None
    images: tuple[int, int] = (0, 0)


@checked
def dense_probe(
    model: DualEncoder,
    *,
    train: Source,
    test: Source,
    labels: Path | str,
    test_labels: Path | str | None = None,
    ridge: Positive = 1e-3,
    batch_size: Count = 64,
    limit: Count | None = None,
) -> DenseScores:
    """Fit a linear map from patches by ridge regression, in closed form, and measure it on other images.

    A patch, normalised to mean 0 and variance 1 over its channels, is mapped to the share of each class in it, to its
    mean depth and its mean normal; what is mapped is enlarged bilinearly to the view's pixels. Nothing is drawn.

    Args:
        model: any that shows its patches; it is not changed.
        train: images whose rows have labels.
        test: others.
        labels: folder of ``tether label``.
        test_labels: that of ``test``; None is the same.
        ridge: added to the diagonal, as a share of its mean.
        batch_size: images in one forward.
        limit: rows of each source at most.

    Raises:
        UnsupportedModelError: a tower that shows no patches.
        InputError: no image with labels, or a task with none.

    Example:
        >>> import tempfile, tether
        >>> from tether.data import open_source
        >>> from tether.methods.cliptex.dense_probe import dense_probe
        >>> from tether.workflows.label import label
        >>> model, scenes = tether.load("tiny", random_weights=True), "scenes:rows=12,ground=relief"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = label(scenes, out=folder, depth="column:depth")
        ...     rows = open_source(scenes, where="data")
        ...     found = dense_probe(model, train=rows, test=rows, labels=folder)
        >>> found.depth_error < 0.5, found.miou, found.images
        (True, None, (12, 12))
    """
    first, second = LabelStore(labels), LabelStore(labels if test_labels is None else test_labels)
    tasks: list[Task] = [task for task in TASKS if task in first.experts and task in second.experts]
    classes = {store.experts["seg"].classes for store in (first, second)} if "seg" in tasks else {0}
    if not tasks or len(classes) > 1:
        raise InputError(f"test_labels: expected the tasks and classes of {labels}, got {second.experts}")
    count = classes.pop() or 0
    channels = {"seg": count, "depth": 1, "normal": 3}
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    fitted_on = 0
    for rows, grid, known in _batches(model, train, first, batch_size=batch_size, limit=limit, tasks=tasks):
        fitted_on += len(rows)
        for task in tasks:
            wanted, share = _of_patches(task, known[task], grid, classes=count)
            seen = share > 0
            x, y = rows[seen].double(), wanted[seen].double()
            own = x.T @ x, x.T @ y
            had = sums.get(task)
            sums[task] = own if had is None else (had[0] + own[0], had[1] + own[1])
    for task in tasks:
        if not sums or not sums[task][0].any():
            raise InputError(f"{train.name}: no image has a label of {task} in {labels}")
    maps = {task: _solved(*sums[task], ridge=ridge) for task in tasks}
    confusion = torch.zeros(count, count, dtype=torch.int64)
    far, seen_pixels, measured = dict.fromkeys(tasks, 0.0), dict.fromkeys(tasks, 0), 0
    for rows, grid, known in _batches(model, test, second, batch_size=batch_size, limit=limit, tasks=tasks):
        measured += len(rows)
        for task in tasks:
            said = (rows.double() @ maps[task]).float().transpose(1, 2).reshape(len(rows), channels[task], *grid)
            label = known[task]
            said = F.interpolate(said, size=tuple(label.shape[-2:]), mode="bilinear")
            if task == "seg":
                there = label != IGNORED
                pairs = label[there].long() * count + said.argmax(dim=1)[there]
                confusion += torch.bincount(pairs, minlength=count**2).view(count, count)
                continue
            if task == "depth":
                valid, error = label >= 0, (said.clamp(0, 1) - label).abs()
            else:
                cosine = (F.normalize(said, dim=1) * label).sum(dim=1, keepdim=True).clamp(-1, 1)
                valid, error = (label != 0).any(dim=1, keepdim=True), cosine.acos().rad2deg()
            far[task] += float(error[valid].double().sum())
            seen_pixels[task] += int(valid.sum())
    means = {task: far[task] / seen_pixels[task] if seen_pixels[task] else None for task in tasks}
    if not measured or ("seg" in tasks and not confusion.any()):
        raise InputError(f"{test.name}: no image has a label in {second.folder}")
    iou = _iou(confusion)
    return DenseScores(
        sum(iou.values()) / len(iou) if iou else None,
        iou,
        float(confusion.trace() / confusion.sum()) if iou else None,
        means.get("depth"),
        means.get("normal"),
        (fitted_on, measured),
    )


def _batches(
    model: DualEncoder, source: Source, store: LabelStore, *, batch_size: int, limit: int | None, tasks: list[Task]
) -> Iterator[tuple[Float[Tensor, "b n w"], tuple[int, int], dict[Task, Tensor]]]:
    """Patches with a one behind them, their grid, and the labels as the model's view of each image sees them."""
    spec, device = model.image_spec.fixed(), model.logit_scale.device
    for rows, pixels in ordered(source, image_spec=spec, batch_size=batch_size, limit=limit):
        having = [place for place, row in enumerate(rows) if store.tasks_of.get(row.key)]
        if not having:
            continue
        with torch.no_grad():
            tokens = patch_tokens(model, pixels[having].to(device)).float().cpu()
        x = F.layer_norm(tokens, tokens.shape[-1:])
        x = torch.cat([x, torch.ones_like(x[..., :1])], dim=2)
        known: dict[Task, list[Tensor]] = {task: [] for task in tasks}
        for place in having:
            for task in tasks:
                found = store.read(rows[place].key, task)
                label = unknown(task) if found is None else found
                shown = fitted(label.shape[0], label.shape[1], spec)  # it has the aspect of the image
                known[task].append(moved(label, task, shown, size=spec.size))
        grid = grid_of(x.shape[1], size=(pixels.shape[2], pixels.shape[3]))
        yield x, grid, {task: torch.stack(some) for task, some in known.items()}


def _of_patches(
    task: Task, label: Tensor, grid: tuple[int, int], *, classes: int
) -> tuple[Float[Tensor, "b n k"], Float[Tensor, "b n"]]:
    """What of each patch's known pixels there is on average, and the share of its pixels that are known."""
    if task == "seg":
        valid = (label != IGNORED)[:, None]
        values = F.one_hot(torch.where(valid[:, 0], label, 0).long(), classes).movedim(3, 1)
    else:
        valid = label >= 0 if task == "depth" else (label != 0).any(dim=1, keepdim=True)
        values = label
    share = F.adaptive_avg_pool2d(valid.float(), grid)
    sums = F.adaptive_avg_pool2d(torch.where(valid, values.float(), 0.0), grid)
    mean = sums / share.clamp(min=1e-6)
    return mean.flatten(2).transpose(1, 2), share.flatten(1)


def _solved(xx: Tensor, xy: Tensor, *, ridge: float) -> Tensor:
    return torch.linalg.solve(xx + ridge * xx.diagonal().mean() * torch.eye(len(xx), dtype=xx.dtype), xy)


def _iou(confusion: Tensor) -> dict[int, float]:
    """By class, of a table (there, said)."""
    both = confusion.diagonal()
    either = confusion.sum(dim=0) + confusion.sum(dim=1) - both
    return {index: float(both[index] / either[index]) for index in range(len(confusion)) if either[index]}
