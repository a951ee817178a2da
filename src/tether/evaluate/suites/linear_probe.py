"""clip_benchmark's linear probe: one linear layer on frozen embeddings of length 1, learnt by AdamW."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, checked
from tether.evaluate.suites.number import SuiteNumber
from tether.evaluate.suites.seen import SeenSet
from tether.evaluate.suites.zero_shot import FIVE, accuracies


@checked
def probe(
    train: SeenSet,
    test: SeenSet,
    *,
    rate: Positive = 0.1,
    epochs: Count = 10,
    batch_size: Count = 64,
    resamples: int = 1000,
    seed: int = 0,
    order_seed: int = 0,
) -> dict[str, SuiteNumber]:
    """``lp_acc1``, ``lp_acc5`` and ``lp_mean_per_class_recall`` by clip_benchmark's recipe without a validation split.

    AdamW without decay at ``rate``, which falls as a half cosine over ``epochs``. The recipe (1.6.2,
    ``metrics/linear_probe.py``) is kept draw by draw, so that the numbers are equal where its torch is in the same
    state; there it runs on CUDA alone and in half precision unless ``--no_amp`` is given, here on the CPU in float32.

    Args:
        train: what is learnt from.
        test: what is measured.
        rate: of learning.
        epochs: passes.
        batch_size: rows of a step.
        resamples: draws of test images for the intervals; 0 makes none.
        seed: of the draws.
        order_seed: of the weights and of the order of rows.

    Raises:
        InputError: a training split of one class, or classes of which it has no image.
    """
    labels, truth = torch.from_numpy(train.labels), test.labels
    missing = np.setdiff1d(truth, train.labels)
    if len(missing):
        raise InputError(
            f"{train.name}: no image of class {missing[0]}, which {test.name} asks for"
            f"{'' if len(missing) == 1 else f'; {len(missing)} such classes'}"
        )
    image = _unit(train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(order_seed)
        order = torch.randperm(len(image))
        image, labels = image[order], labels[order]
        torch.manual_seed(order_seed)
        layer = torch.nn.Linear(image.shape[1], int(labels.max()) + 1)
        learner = torch.optim.AdamW(layer.parameters(), lr=rate, weight_decay=0.0)
        rows = DataLoader(_Numbers(len(image)), batch_size=batch_size, shuffle=True, collate_fn=torch.tensor)
        steps, step = epochs * len(rows), 0
        for _ in range(epochs):
            for some in rows:
                learner.param_groups[0]["lr"] = 0.5 * (1 + math.cos(math.pi * step / steps)) * rate
                learner.zero_grad()
                F.cross_entropy(layer(image[some]), labels[some]).backward()
                learner.step()
                step += 1
    with torch.inference_mode():
        scores = layer(_unit(test))
    five = bool(truth.max() >= FIVE)
    found = accuracies(scores, truth, five=five, resamples=resamples, seed=seed)
    return {f"lp_{name}": value for name, value in found.items()}


class _Numbers(Dataset[int]):
    """The numbers of rows, so that the loader draws their order and nothing else."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


def _unit(seen: SeenSet) -> Float[Tensor, "n d"]:
    return seen.image if seen.geometry.unit else F.normalize(seen.image, dim=-1)
