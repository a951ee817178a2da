"""Two further worlds with a cue that deceives: classes that share features, and digits on coloured grounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether_lab.worlds.noisy_digits import CLASSES, noisy_digits

FEATURES, WEAK = 10, 0.5
"""Features of the shared world, and the size of one that is not the class's own."""
GROUNDS = (
    (0.9, 0.1, 0.1),
    (0.1, 0.7, 0.1),
    (0.1, 0.2, 0.9),
    (0.8, 0.8, 0.1),
    (0.8, 0.1, 0.8),
    (0.1, 0.8, 0.8),
    (0.9, 0.5, 0.1),
    (0.5, 0.3, 0.1),
    (0.4, 0.4, 0.4),
    (0.4, 0.1, 0.6),
)
"""Red, green and blue in [0, 1] of the ground that goes with each digit."""
WIDTH, BATCH, LEARNING_RATE, SCALE = 64, 128, 1e-3, 1 / 0.07
"""The last is where CLIP's scale of the cosines starts; it is learnt."""


@dataclass(frozen=True, slots=True)
class SharedPairs:
    """Pairs of the shared world.

    Attributes:
        image: (n, dim_image).
        text: (n, dim_text) captions that name every feature.
        class_text: (n, dim_text) captions that name the class's own feature alone.
        label: (n,) class: its own feature, and after ``FEATURES`` the same with the other sign.
    """

    image: Float[np.ndarray, "n i"]
    text: Float[np.ndarray, "n t"]
    class_text: Float[np.ndarray, "n t"]
    label: Int[np.ndarray, " n"]


class SharedWorld:
    """Classes that are each known by one of ten features, whose sign is the class; each feature is others' cue.

    Class (k, c) has the feature k at size 1 and sign c. Its other features have size ``WEAK`` and, in training, mostly
    signs that go with the class, drawn once for each class of positive sign and turned around for the negative one.
    Out of distribution these signs are fair coins. What a feature is can be learnt from the captions of all classes.

    Source: arXiv 2310.04971, the second data model of section 4 as told there in words; sizes are ours.

    Args:
        dim_image: width of the images.
        dim_text: width of the captions.
        seed: of the directions and the signs, so that training and test share them.

    Attributes:
        class_prompts: (2 * ``FEATURES``, dim_text) the class's own feature with its sign.
    """

    def __init__(self, *, dim_image: int, dim_text: int, seed: int) -> None:
        """Draw the directions and the signs."""
        rng = np.random.default_rng(seed)
        self._axes = tuple(np.linalg.qr(rng.standard_normal((dim, FEATURES)))[0].T for dim in (dim_image, dim_text))
        self._signs = rng.choice([-1.0, 1.0], size=(FEATURES, FEATURES))
        self.class_prompts = np.concatenate([self._axes[1], -self._axes[1]])

    def draw(self, n: int, *, p: float, rng: np.random.Generator) -> SharedPairs:
        """``n`` pairs in which each weak feature has its class's sign with probability ``p``."""
        own, sign = rng.integers(FEATURES, size=n), rng.choice([-1.0, 1.0], size=n)
        follows = np.where(rng.random((n, FEATURES)) < p, 1.0, -1.0)
        features = WEAK * sign[:, None] * self._signs[own] * follows
        core = np.zeros_like(features)
        features[np.arange(n), own] = core[np.arange(n), own] = sign
        image, text, class_text = (
            said @ axes + rng.standard_normal((n, axes.shape[1])) / np.sqrt(axes.shape[1])
            for said, axes in ((features, self._axes[0]), (features, self._axes[1]), (core, self._axes[1]))
        )
        return SharedPairs(image, text, class_text, own + FEATURES * (sign < 0))


def coloured_digits(*, seed: int, p: float, epochs: int) -> dict[str, float]:
    """Accuracy of one small network on digits whose ground tells nothing, taught in two ways with equal steps.

    In training a digit lies on its own ground with probability ``p``, else on any of the others. The network learns
    with captions, as bags of two words, the digit and the colour, or by cross-entropy from the digit alone.

    Args:
        seed: of split, grounds, weights and batches; the two share them.
        p: probability that the ground goes with the digit.
        epochs: passes over the training images.

    Returns:
        ``digits_captions``, ``digits_class_captions`` (captions that name the digit alone) and ``digits_labels``.
    """
    digits = noisy_digits(seed=seed, noise=0.0)
    draw = torch.Generator().manual_seed(seed)
    ground = _grounds(digits.truth, p=p, draw=draw)
    seen = _painted(digits.train, ground)
    unseen = _painted(digits.test, _grounds(digits.test_truth, p=1 / CLASSES, draw=draw))
    found: dict[str, float] = {}
    for name, said in (("captions", 2), ("class_captions", 1), ("labels", 0)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _network()
            words = nn.Embedding(2 * CLASSES, WIDTH)  # of the digit and of the ground; its first half is the classifier
        scale = nn.Parameter(torch.tensor(SCALE).log())
        order = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam([*network.parameters(), *words.parameters(), scale], lr=LEARNING_RATE)
        for _ in range(epochs):
            for rows in torch.randperm(len(seen), generator=order).split(BATCH):
                image, label = network(seen[rows]), digits.truth[rows]
                if said:
                    tokens = torch.stack([label, CLASSES + ground[rows]], dim=1)[:, :said]
                    loss = _contrast(image, words(tokens).sum(dim=1), tokens, scale=scale.exp())
                else:
                    loss = F.cross_entropy(image @ words.weight[:CLASSES].T, label)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            classes = words.weight[:CLASSES]
            right = (network(unseen) @ (F.normalize(classes, dim=1) if said else classes).T).argmax(dim=1)
        found[f"digits_{name}"] = float((right == digits.test_truth).double().mean())
    return found


def _contrast(image: Tensor, text: Tensor, tokens: Tensor, *, scale: Tensor) -> Tensor:
    """Both directions of InfoNCE; equal captions are each other's positives."""
    logits = scale * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    same = (tokens[:, None] == tokens[None]).all(dim=2).double()
    target = (same / same.sum(dim=1, keepdim=True)).to(logits.dtype)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _grounds(labels: Int[Tensor, " n"], *, p: float, draw: torch.Generator) -> Int[Tensor, " n"]:
    """The digit's own ground with probability ``p``, else one of the others."""
    other = (labels + torch.randint(1, CLASSES, labels.shape, generator=draw)) % CLASSES
    return torch.where(torch.rand(labels.shape, generator=draw) < p, labels, other)


def _painted(digits: Float[Tensor, "n 64"], ground: Int[Tensor, " n"]) -> Float[Tensor, "n 3 8 8"]:
    """White digits on their grounds, each value centred on 0."""
    ink = digits.view(-1, 1, 8, 8)
    return ink + (1 - ink) * torch.tensor(GROUNDS)[ground].view(-1, 3, 1, 1) - 0.5


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, WIDTH),
    )
