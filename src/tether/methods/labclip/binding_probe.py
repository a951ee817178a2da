"""Whether a linear model can read from one embedding which thing has which attribute (arXiv 2502.03566)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from tether.core.errors import InputError
from tether.core.ranges import Inner, Positive, checked
from tether.space.validation import checked_rows, unit_rows

_MOST_ITERATIONS = 2000


@dataclass(frozen=True, slots=True)
class BindingProbe:
    """What one linear classifier for each kind of thing reached on scenes it was not fitted on.

    Attributes:
        accuracy: mean over the kinds of thing.
        majority: the same for naming each kind's most frequent attribute: what guessing gives.
        by_object: accuracy for each kind of thing.
        weights: for each kind and attribute the direction (d,) that speaks for it, in the space of the features.
    """

    accuracy: float
    majority: float
    by_object: Mapping[str, float]
    weights: Mapping[tuple[str, str], Float[np.ndarray, " d"]]


@checked
def probe_binding(
    features: Float[np.ndarray, "n d"],
    *,
    objects: Sequence[Sequence[str]],
    attributes: Sequence[Sequence[str]],
    held_out: Inner | Bool[np.ndarray, " n"] = 0.3,
    strength: Positive = 1.0,
    seed: int = 0,
) -> BindingProbe:
    """For each kind of thing, tell its attribute from the embedding of a scene (or caption) that contains it.

    A bag of words cannot: it knows that there is red and blue, a star and a ring, but not which is which.

    Source: arXiv 2502.03566, section 4.

    Args:
        features: one embedding for each scene, of one modality.
        objects: kinds of thing in each scene, each at most once.
        attributes: the attribute of each of them, in the same order.
        held_out: fraction of the scenes that is only looked at, or which scenes these are; split by combination
            if you ask about new ones.
        strength: inverse of the classifier's regularisation.
        seed: of the choice of those scenes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = checked_rows(features, name="features")
    told = _table(objects, attributes, scenes=len(rows))
    test = _held_out(held_out, scenes=len(rows), seed=seed)
    by_object: dict[str, float] = {}
    guess: list[float] = []
    weights: dict[tuple[str, str], np.ndarray] = {}
    for kind in sorted({name for scene in told for name in scene}):
        place = np.array([number for number, scene in enumerate(told) if kind in scene])
        answer = np.array([told[number][kind] for number in place])
        unseen = test[place]
        values, counts = np.unique(answer[~unseen], return_counts=True)
        if len(values) < 2 or not unseen.any():
            warnings.warn(f"{kind!r}: left out, too few scenes to fit on or to look at", stacklevel=2)
            continue
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=_MOST_ITERATIONS))
        probe.fit(rows[place[~unseen]], answer[~unseen])
        by_object[kind] = float(probe.score(rows[place[unseen]], answer[unseen]))
        guess.append(float((answer[unseen] == values[counts.argmax()]).mean()))
        scaler, linear = probe[0], probe[1]
        found = linear.coef_ / scaler.scale_
        found = np.concatenate([-found, found]) if len(values) == 2 else found
        weights |= {(kind, str(value)): row for value, row in zip(values, found, strict=True)}
    if not by_object:
        raise InputError("no kind of thing has two attributes among the fitted scenes and any among the others")
    return BindingProbe(float(np.mean(list(by_object.values()))), float(np.mean(guess)), by_object, weights)


def probe_agreement(first: BindingProbe, second: BindingProbe) -> float:
    """Mean cosine of the two probes' directions for the same thing and attribute.

    Low where two modalities hold the binding along different directions, so that their cosine cannot use it.

    Source: arXiv 2502.03566, section 5.
    """
    shared = sorted(first.weights.keys() & second.weights.keys())
    if not shared:
        raise InputError("the two probes speak of no thing and attribute in common")
    one = np.stack([first.weights[key] for key in shared])
    two = np.stack([second.weights[key] for key in shared])
    if one.shape != two.shape:
        raise InputError(f"the probes' spaces differ: {one.shape[1]} and {two.shape[1]} coordinates")
    return float((unit_rows(one) * unit_rows(two)).sum(axis=1).mean())


def _table(objects: Sequence[Sequence[str]], attributes: Sequence[Sequence[str]], *, scenes: int) -> list[dict]:
    if len(objects) != scenes or len(attributes) != scenes:
        raise InputError(f"expected things and attributes of {scenes} scenes, got {len(objects)} and {len(attributes)}")
    told = []
    for number, (kinds, values) in enumerate(zip(objects, attributes, strict=True)):
        if len(kinds) != len(values) or len(set(kinds)) != len(kinds):
            raise InputError(
                f"scene {number}: expected an attribute for each of its distinct things, got {list(kinds)} and "
                f"{list(values)}"
            )
        told.append(dict(zip(kinds, values, strict=True)))
    return told


def _held_out(held_out: float | np.ndarray, *, scenes: int, seed: int) -> np.ndarray:
    if isinstance(held_out, np.ndarray):
        if held_out.shape != (scenes,) or held_out.dtype != bool:
            raise InputError(f"held_out: expected {scenes} booleans, got {held_out.dtype} {held_out.shape}")
        return held_out
    test = np.zeros(scenes, dtype=bool)
    test[np.random.default_rng(seed).permutation(scenes)[: max(1, round(held_out * scenes))]] = True
    return test
