"""Whether each tower was trained, judged by itself: against copies of it whose weights are shuffled."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.finding import Bar, Bars, Finding
from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, checked
from tether.data.words import words_of
from tether.evaluate.inspect.about import tower_of
from tether.evaluate.inspect.above_chance import LEAST_PAIRS
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.intervals import exact
from tether.evaluate.inspect.retrieval import AT_CHANCE
from tether.evaluate.inspect.vocabulary import STOP
from tether.models.embed import encode_images, encode_texts

COPIES = 3
BEYOND = 1.25
"""How many times the agreement of shuffled copies a trained tower's must be."""
_ROWS = 256
_SIDES = ("image", "text")


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of one tower with the words of the captions: as it is, and the mean of copies with shuffled weights."""

    own: float
    shuffled: float

    @property
    def random(self) -> bool:
        """Whether the tower agrees with the words no better than its shuffled copies."""
        return self.own < BEYOND * self.shuffled


@checked
@dataclass(frozen=True, kw_only=True)
class Towers:
    """Names a tower that was never trained.

    A model that tells pairs apart has two trained towers. Where it does not, each tower is judged without the other:
    how far its embeddings agree with the words of the captions (linear CKA, arXiv 1905.00414), against copies of the
    model whose weights are shuffled within each tensor. Norms that still stand at their start, all gains equal and all
    offsets zero, give an untrained tower away at once.

    Args:
        copies: shuffled copies that are compared.
    """

    title = "Were both towers trained?"
    copies: Count = COPIES

    def __call__(self, subject: Subject) -> Finding:
        """An alarm names the tower whose weights look like their random start."""
        module = subject.model if isinstance(subject.model, nn.Module) else None
        still = [side for side in _SIDES if module is not None and untouched(module, side=side)]
        if not still:
            subject.need_pairs(LEAST_PAIRS)
        found: dict[str, Agreement] = {}
        apart = None
        if len(subject.seen.captions) >= LEAST_PAIRS:
            apart = subject.told_apart
        if apart is not None and apart.value < AT_CHANCE:
            if module is None:
                raise InputError(
                    "this model tells no pairs apart, and shows no weights by which its towers could be judged"
                )
            found = self._agreements(subject, module)
        random = [side for side in _SIDES if side in still or (side in found and found[side].random)]
        figures = [] if apart is None else [apart]
        bars = []
        for side, one in found.items():
            figures += [
                exact(f"{side} tower: agreement with the words of the captions", one.own),
                exact(f"{side} tower with shuffled weights: the same", one.shuffled),
            ]
            bars += [Bar(f"{side} tower", one.own, strong=side in random), Bar(f"{side} tower, shuffled", one.shuffled)]
        figures.append(exact("towers whose norms stand at their start", len(still), unit="count"))
        which = " and the ".join(f"{side} tower" for side in random)
        if random:
            sentence = f"The {which} {'were' if len(random) > 1 else 'was'} not trained: "
            sentence += (
                "the norms stand as they were made." if set(random) <= set(still) else "shuffled weights do as well."
            )
        elif found:
            sentence = "Both towers learnt something, but they do not fit each other."
        else:
            sentence = "Both towers were trained: together they tell pairs apart."
        return Finding(
            sentence,
            "alarm" if random or found else "good",
            tuple(figures),
            (Bars("Agreement with the words of the captions (0 to 1)", tuple(bars), "number"),) if bars else (),
            "A tower that was trained badly, or for something else, passes. How good both are is told by retrieval.",
            "tether train --recipe speedrun" if random or found else "",
        )

    def _agreements(self, subject: Subject, module: nn.Module) -> dict[str, Agreement]:
        rows = [row for row in subject.sample.rows.tolist() if subject.first_caption[row] >= 0][:_ROWS]
        place = {row: at for at, row in enumerate(subject.sample.rows.tolist())}
        pixels = subject.sample.pixels[[place[row] for row in rows]]
        captions = [subject.caption_of(row) for row in rows]
        words = _bag(captions)
        own = {"image": subject.image[rows], "text": subject.text[[subject.first_caption[row] for row in rows]]}
        shuffled: dict[str, list[float]] = {side: [] for side in _SIDES}
        for number in range(self.copies):
            other = shuffled_copy(module, seed=hash_int(str(number), seed=subject.seed, salt="towers") >> 1)
            seen = {
                "image": encode_images(other, pixels.split(subject.batch_size)),
                "text": encode_texts(other, captions, batch_size=subject.batch_size),
            }
            for side, values in seen.items():
                shuffled[side].append(agreement(F.normalize(values, dim=-1), words))
        return {side: Agreement(agreement(own[side], words), sum(shuffled[side]) / self.copies) for side in _SIDES}


def untouched(module: nn.Module, *, side: str) -> bool:
    """Whether all vectors of the tower's norms and biases are constant, as they are before the first step."""
    vectors = [
        parameter.detach()
        for name, parameter in module.named_parameters()
        if parameter.ndim == 1
        and tower_of(name) == side
        and name.endswith((".bias", ".weight"))
        and parameter.numel() > 1
    ]
    return bool(vectors) and all(bool((vector == vector[0]).all()) for vector in vectors)


def shuffled_copy(module: nn.Module, *, seed: int) -> DualEncoder:
    """A copy whose matrices hold the same numbers in random order; vectors and scalars stay."""
    chance = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.ndim > 1:
                order = torch.randperm(parameter.numel(), generator=chance).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return other  # pyrefly: ignore[bad-return] - a copy of a model that is one


def agreement(rows: Float[Tensor, "n d"], words: Float[Tensor, "n w"]) -> float:
    """Linear CKA of two sets of centred rows: 0 for nothing in common, 1 for one up to rotation and scale."""
    left, right = (side.double() - side.double().mean(dim=0) for side in (rows, words))
    common = (left.T @ right).square().sum()
    length = (left.T @ left).norm() * (right.T @ right).norm()
    return float(common / length) if float(length) > 0 and math.isfinite(float(length)) else 0.0


def _bag(captions: list[str]) -> Float[Tensor, "n w"]:
    """Which content words each caption holds; the frame around them is what a good text tower leaves out."""
    content = [set(words_of(caption)) - STOP for caption in captions]
    words = sorted(set().union(*content))
    place = {word: at for at, word in enumerate(words)}
    bag = torch.zeros(len(captions), max(1, len(words)))
    for row, held in enumerate(content):
        bag[row, [place[word] for word in held]] = 1
    return bag
