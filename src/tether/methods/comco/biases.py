"""First-mentioned and largest-object bias of a model, on captions and images made for it (arXiv 2502.19842)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import comb
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, checked
from tether.methods.comco.matching import JOIN
from tether.methods.comco.retrieval import ObjectRetrieval, object_retrieval
from tether.methods.comco.scenes import MultiObjectWorld
from tether.models.embed import encode_images, encode_texts

SENTENCES = 2000


@checked
def order_bias(
    model: DualEncoder,
    names: Sequence[str],
    *,
    n: int,
    seed: int,
    limit: Count = SENTENCES,
    template: str = "{}",
    embedding: Literal["sentence", "sum"] = "sentence",
) -> ObjectRetrieval:
    """Which mention a sentence of n objects resembles most: position 0 is the first mentioned (TOR).

    Sentences are combinations of names joined with "and", each in an order of its own: the released scripts keep the
    order of the list, which ties each name to a position.

    Args:
        model: any model that ``tether.load`` gives.
        names: K different objects as captions say them, such as ``a red star``.
        n: mentions in a sentence, 2 to K.
        seed: of the choice of combinations and of their orders.
        limit: most sentences; all combinations are used where they are fewer.
        template: what a sentence is put into, with ``{}`` where it goes; long, decorated ones are the stress test.
        embedding: ``sentence``, or ``sum`` of the embeddings of each object alone, the paper's mitigation, which knows
            no order.
    """
    listed = list(names)
    if len(set(listed)) < len(listed) or not all(isinstance(name, str) and name.strip() for name in listed):
        raise InputError(f"names: expected different names, got {listed}")
    if not 2 <= n <= len(listed):
        raise InputError(f"n: expected 2 to {len(listed)} mentions, as there are so many names, got {n}")
    if template.count("{}") != 1:
        raise InputError(f"template: expected exactly one {{}}, got {template!r}")
    present = torch.from_numpy(_drawn(len(listed), n=n, limit=limit, seed=seed))
    alone = encode_texts(model, listed)
    if embedding == "sum":
        features = alone[present].sum(1)
    else:
        spoken = [template.replace("{}", JOIN.join(listed[index] for index in row)) for row in present.tolist()]
        features = encode_texts(model, spoken)
    return object_retrieval(features, prototypes=alone, present=present)


@checked
def size_bias(model: DualEncoder, world: MultiObjectWorld, *, count: Count, views: Count = 1) -> ObjectRetrieval:
    """Which object an image of several resembles most (IOR); position ``world.big`` is the enlarged one.

    Args:
        model: any model that ``tether.load`` gives.
        world: what images are drawn from, at the model's size.
        count: images.
        views: images of each single object that its prototype is the mean of; the released data have one.
    """
    items = [world.item(index) for index in range(count)]
    features = encode_images(model, world.pixels(items).split(256))
    present = torch.tensor([item.objects for item in items])
    return object_retrieval(features, prototypes=prototypes(model, world, views=views), present=present)


@checked
def prototypes(model: DualEncoder, world: MultiObjectWorld, *, views: Count = 1) -> Float[Tensor, "K d"]:
    """(K, d) unit embeddings of every object of a world alone: the mean over ``views`` images of each."""
    alone = [world.single(index, view=view) for index in range(len(world.objects)) for view in range(views)]
    rows = F.normalize(encode_images(model, world.pixels(alone).split(256)), dim=1)
    return F.normalize(rows.unflatten(0, (len(world.objects), views)).mean(1), dim=1)


def _drawn(names: int, *, n: int, limit: int, seed: int) -> np.ndarray:
    """Combinations of n of the names, each once, in a random order each."""
    draw = np.random.default_rng(seed)
    if comb(names, n) <= limit:
        chosen = [list(each) for each in combinations(range(names), n)]
    else:
        seen: dict[tuple[int, ...], None] = {}
        while len(seen) < limit:
            seen[tuple(sorted(draw.choice(names, n, replace=False).tolist()))] = None
        chosen = [list(each) for each in seen]
    return np.array([draw.permutation(each) for each in chosen])
