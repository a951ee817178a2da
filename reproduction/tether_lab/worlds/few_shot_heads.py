"""Heads on resting embeddings from a few images a class, ours and their peers, on the same draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from tether.adaptation.recipes.given import Given
from tether.adaptation.training_free import TipAdapter
from tether.data.labelled import LabelledRows, read_labels
from tether.evaluate.few_shot import Draw, FewShotAnswer, Method
from tether.methods.clipood import class_texts
from tether.methods.gda import GDAClassifier
from tether.methods.gda.head import ALPHAS
from tether.models.embed import encode_images
from tether_lab.lab.lab import Lab
from tether_lab.worlds.domain_shift import TEMPLATE
from tether_lab.worlds.held_out_things import HeldOutThings, ThingRows

STRENGTHS = tuple(10.0**power for power in range(-2, 5))
"""Of logistic regression, one of which is chosen on validation rows."""
WIDE_ALPHAS = (*ALPHAS, 300.0, 1e3, 3e3, 1e4)
"""Weights of peers' discriminants: without a covariance these are small, so that those of ours would cap them."""
DIGITS_SCALE, DIGITS_NOISE = 100.0, 0.65
"""Of the digits: logit scale, and length of what is added to the mean unit row of a class in place of a text."""
NEAREST = 64
"""Rows of which a class without images is made."""

Rows = Float[np.ndarray, "n d"]


class Fitted(Protocol):
    """A classifier of scikit-learn's kind."""

    def predict(self, X: Any) -> Any:
        """The class of each row."""
        ...


Discriminant = Callable[[Rows], Float[np.ndarray, "n c"]]
Fit = Callable[[Rows, np.ndarray], Discriminant | None]


@dataclass(frozen=True, slots=True)
class EmbeddedSets:
    """A labelled set as unit rows.

    Attributes:
        train: set to draw from.
        test: set to ask about.
        rows: (v, n, d) of ``train``, in v views of each image; the first is the image as it is.
        asked: (m, d) of ``test``.
        text: (c, d) of the classes' texts.
        scale: of the cosines.
    """

    train: LabelledRows
    test: LabelledRows
    rows: Float[np.ndarray, "v n d"]
    asked: Rows
    text: Rows
    scale: float

    def shown(self, draw: Draw, *, crops: bool = False) -> tuple[Rows, np.ndarray]:
        """Rows and classes to learn from, images as they are or the crops of each."""
        places, labels = list(draw.train), np.array(self.train.labels)
        views = self.rows[1:] if crops else self.rows[:1]
        return np.concatenate(views[:, places]), np.tile(labels[places], len(views))

    def chosen(self, draw: Draw) -> tuple[Rows, np.ndarray]:
        """Rows and classes to choose settings on, images as they are."""
        return self.rows[0, list(draw.validation)], np.array(self.train.labels)[list(draw.validation)]

    def by_text(self, rows: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
        """The class whose text is nearest."""
        return np.array(classes)[(self.asked[rows] @ self.text[list(classes)].T).argmax(axis=1)]


def embedded_things(lab: Lab, things: HeldOutThings, *, views: int) -> EmbeddedSets:
    """Of the small CLIP: images as they are, and ``views`` random crops, as the recipe ``gda`` takes them."""
    model, train = things.model, things.train
    pixels = cast(ThingRows, things.test.source).pixels
    part = train.part(range(len(train.labels)), prompts=things.prompts, name="all")
    given = Given("labels", part, len(train.labels), seed=lab.seed)
    plain = given.embed(model).image
    crops = given.embed(model, views=views).image if views else plain[:0]
    asked = encode_images(model, pixels.split(250))
    text = class_texts(model, train.classes, template=TEMPLATE)
    rows = _unit(torch.cat([plain, crops]).reshape(1 + views, len(plain), -1))
    return EmbeddedSets(train, things.test, rows, _unit(asked), _unit(text), float(model.logit_scale.detach()))


def digits(lab: Lab) -> EmbeddedSets:
    """Handwritten digits as 64 grey values; noisy means of the classes stand in for texts. Half is to draw from."""
    images, target = load_digits(return_X_y=True)
    order = np.random.default_rng([lab.seed, 4]).permutation(len(target))
    pixels = torch.from_numpy(15 * images.reshape(-1, 8, 8)).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    sets, rows = [], []
    for part, some in enumerate((order[::2], order[1::2])):
        source = ThingRows(pixels[some], [str(one) for one in target[some]], name=f"digits {lab.seed} {part}")
        labelled = read_labels(source)
        places = [int(block) + number for block, number in labelled.places]
        sets.append(labelled)
        rows.append(_unit(source.pixels[places, 0].flatten(1)))
    labels = np.array(sets[0].labels)
    mean = np.stack([rows[0][labels == label].mean(axis=0) for label in range(len(sets[0].classes))])
    noise = np.random.default_rng([lab.seed, 5]).normal(size=mean.shape)
    text = torch.from_numpy(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    text = text + DIGITS_NOISE * F.normalize(torch.from_numpy(noise), dim=1)
    return EmbeddedSets(sets[0], sets[1], rows[0][None], rows[1], _unit(text), DIGITS_SCALE)


def _unit(rows: torch.Tensor) -> np.ndarray:
    return F.normalize(rows.detach().double(), dim=-1).numpy()


def of_head(fit: Callable[[Draw], Fitted | None], at: EmbeddedSets) -> Method:
    """A fitted head as an answer; of classes that it does not know it says nothing."""

    def method(draw: Draw) -> FewShotAnswer | None:
        head = fit(draw)
        if head is None:
            return None
        return lambda rows, classes: head.predict(at.asked[rows]) if classes == draw.classes else None

    return method


def zero_shot(at: EmbeddedSets) -> Method:
    """Texts alone."""
    return lambda draw: at.by_text


def gda(at: EmbeddedSets, *, crops: bool = False, **settings) -> Method:
    """Ours; of classes without images by ``extend``."""

    def method(draw: Draw) -> FewShotAnswer:
        shown, labels = at.shown(draw, crops=crops)
        text = at.text[list(draw.classes)]
        head = GDAClassifier(logit_scale=at.scale, **settings)
        head.fit(shown, labels, text_weights=text, classes=draw.classes, validation=at.chosen(draw))

        def answer(rows: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
            if classes == draw.classes:
                return head.predict(at.asked[rows])
            text, k = at.text[list(classes)], min(NEAREST, len(shown))
            return head.extend(shown, text_weights=text, classes=classes, k=k).predict(at.asked[rows])

        return answer

    return method


def gda_unlabelled(at: EmbeddedSets) -> Method:
    """Ours without the labels of what is shown."""

    def fit(draw: Draw):
        head, text = GDAClassifier(logit_scale=at.scale), at.text[list(draw.classes)]
        rows, _ = at.shown(draw, crops=False)
        return head.fit_unlabelled(rows, text_weights=text, classes=draw.classes, validation=at.chosen(draw))

    return of_head(fit, at)


def beside_texts(at: EmbeddedSets, fit: Fit, *, crops: bool = False) -> Method:
    """Zero-shot logits plus alpha times a discriminant; alpha is searched as ours is, on more values."""

    def method(draw: Draw) -> FewShotAnswer | None:
        learnt, names, text = fit(*at.shown(draw, crops=crops)), np.array(draw.classes), at.text[list(draw.classes)]
        if learnt is None:
            return None
        chosen, labels = at.chosen(draw)

        def predict(rows: Rows, alpha: float) -> np.ndarray:
            return names[(at.scale * rows @ text.T + alpha * learnt(rows)).argmax(axis=1)]

        alpha = max(WIDE_ALPHAS, key=lambda one: (predict(chosen, one) == labels).mean())
        return lambda rows, classes: predict(at.asked[rows], alpha) if classes == draw.classes else None

    return method


def nearest_mean(rows: Rows, labels: np.ndarray) -> Discriminant:
    """Gaussians whose covariance is the identity: minus half the squared distance from the mean, but for |x|."""
    means = np.stack([rows[labels == label].mean(axis=0) for label in np.unique(labels)])
    return lambda x: x @ means.T - (means**2).sum(axis=1) / 2


def means_alone(at: EmbeddedSets) -> Method:
    """The nearest class mean, texts left aside."""

    def method(draw: Draw) -> FewShotAnswer:
        near, names = nearest_mean(*at.shown(draw)), np.array(draw.classes)
        return lambda rows, classes: names[near(at.asked[rows]).argmax(axis=1)] if classes == draw.classes else None

    return method


def lda_scores(rows: Rows, labels: np.ndarray) -> Discriminant | None:
    """Those of ``shrunk_lda``."""
    head = shrunk_lda(rows, labels)
    return None if head is None else head.decision_function


def shrunk_lda(rows: Rows, labels: np.ndarray) -> LinearDiscriminantAnalysis | None:
    """Scikit-learn's; None where nothing scatters within a class."""
    if len(rows) == len(np.unique(labels)):
        return None
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(rows, labels)


def lda(at: EmbeddedSets, *, crops: bool = False) -> Method:
    """Scikit-learn's LDA, which chooses its shrinkage by itself."""
    return of_head(lambda draw: shrunk_lda(*at.shown(draw, crops=crops)), at)


def logistic(at: EmbeddedSets) -> Method:
    """Scikit-learn's logistic regression; its strength is chosen on validation rows."""

    def fit(draw: Draw) -> LogisticRegression:
        shown = at.shown(draw)
        made = [LogisticRegression(C=strength, max_iter=1000).fit(*shown) for strength in STRENGTHS]
        return max(made, key=lambda one: one.score(*at.chosen(draw)))

    return of_head(fit, at)


def tip_adapter(at: EmbeddedSets, **settings) -> Method:
    """Tip-Adapter; both numbers are searched on validation rows."""

    def fit(draw: Draw) -> TipAdapter:
        head, text = TipAdapter(logit_scale=at.scale, **settings), at.text[list(draw.classes)]
        shown = at.shown(draw, crops=False)
        return head.fit(*shown, text_weights=text, classes=draw.classes, validation=at.chosen(draw))

    return of_head(fit, at)
