"""Tip-Adapter, with its keys as they are or tuned, as a recipe."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from tether.adaptation.heads.cache import CacheHead
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.recipe import Case, FitRecipe
from tether.adaptation.recipes.refusals import check_cosine_model
from tether.adaptation.recipes.tuning import Outcome
from tether.adaptation.training_free import TipAdapter
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, Positive, Whole, checked


class TipAdapterRecipe(FitRecipe):
    """A cache of the labelled images beside the class texts; see ``TipAdapter``.

    A key is the mean over ten random crops of its image; tuned keys (Tip-Adapter-F) learn from the crops. What is not
    given of alpha and beta is chosen on the validation part.

    Source: arXiv 2111.03930.
    """

    takes = "labels"
    gives = "head"
    cost = 4.0
    least = 1

    @checked
    def __init__(
        self,
        *,
        alpha: NonNegative | None = None,
        beta: Positive | None = None,
        keys: Literal["fixed", "tuned"] = "fixed",
        views: Whole = 10,
        epochs: Count = 20,
        learning_rate: Positive = 1e-3,
    ) -> None:
        """Take the settings.

        Args:
            alpha: weight of the cache; None chooses it.
            beta: how sharply nearness falls off; None chooses it.
            keys: ``fixed``, or ``tuned`` by gradient.
            views: random crops of each image, mirrored in half of the cases; 0 takes the image as it is.
            epochs: passes over the images with tuned keys, each of them in one crop.
            learning_rate: of tuned keys.
        """
        self.alpha, self.beta, self.views = alpha, beta, views
        self.keys: Literal["fixed", "tuned"] = keys
        self.epochs, self.learning_rate = epochs, learning_rate
        self.validates = alpha is None or beta is None

    @classmethod
    def suits(cls, case: Case) -> str:
        """See Recipe."""
        if case.least >= 4:
            return ""
        return f"asks which of {case.least} images a class an image is near to, beside what the class names say"

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)

    def fit(self, model: DualEncoder, given: Given) -> Outcome:
        """See FitRecipe."""
        train = given.embed(model, views=self.views)
        chosen = given.embed(model, part="validation") if self.validates else None
        views = max(1, self.views)
        labels = train.labels.numpy()
        tip = TipAdapter(
            alpha="search" if self.alpha is None else self.alpha,
            beta="search" if self.beta is None else self.beta,
            keys=self.keys,
            epochs=max(1, round(self.epochs / views)),
            learning_rate=self.learning_rate,
            random_state=given.seed,
            logit_scale=float(model.logit_scale.detach()),
        ).fit(
            train.image.unflatten(0, (views, -1)).mean(dim=0),
            labels[: len(labels) // views],
            text_weights=given.class_text,
            classes=np.arange(len(given.classes)),
            validation=None if chosen is None else (chosen.image, chosen.labels.numpy()),
            queries=(train.image, labels),
        )
        weight, keys = (torch.from_numpy(rows) for rows in (tip.logit_scale * tip.text_weights_, tip.keys_))
        owners = torch.from_numpy(tip.key_classes_)
        picked = {"alpha": tip.alpha_} if self.alpha is None else {}
        picked |= {"beta": tip.beta_} if self.beta is None else {}
        return Outcome(
            head=CacheHead(weight, keys, owners, classes=given.classes, alpha=tip.alpha_, beta=tip.beta_),
            chosen=picked,
        )
