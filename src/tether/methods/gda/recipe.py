"""Gaussian discriminant analysis beside the class texts, as a recipe."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from tether.adaptation.heads.linear import LinearHead
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.recipe import Case, FitRecipe
from tether.adaptation.recipes.refusals import check_cosine_model
from tether.adaptation.recipes.tuning import Outcome
from tether.core.protocols import DualEncoder
from tether.core.ranges import Positive, Whole, checked
from tether.methods.gda import GDAClassifier


class GdaRecipe(FitRecipe):
    """A mean for each class and one covariance for all, in closed form, added to zero-shot; see ``GDAClassifier``.

    The paper encodes ten random crops of each image and counts each as a row. Without ``alpha`` the weight of the
    images beside the texts is chosen on the validation part.

    Source: arXiv 2402.04087.
    """

    takes = "labels"
    gives = "head"
    cost = 3.0
    least = 1

    @checked
    def __init__(
        self,
        *,
        alpha: Positive | None = None,
        precision: Literal["ks", "mean_class_pinv"] = "ks",
        priors: Literal["uniform", "empirical"] = "uniform",
        views: Whole = 10,
    ) -> None:
        """Take the settings.

        Args:
            alpha: weight of the Gaussians; None chooses it on the validation part.
            precision: see ``GDAClassifier``.
            priors: see ``GDAClassifier``.
            views: random crops of each image, mirrored in half of the cases; 0 takes the image as it is.
        """
        self.alpha, self.views = alpha, views
        self.precision: Literal["ks", "mean_class_pinv"] = precision
        self.priors: Literal["uniform", "empirical"] = priors
        self.validates = alpha is None

    @classmethod
    def suits(cls, case: Case) -> str:
        """See Recipe."""
        return f"adds {case.least} images a class to what the class names say, without a gradient step"

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)

    def fit(self, model: DualEncoder, given: Given) -> Outcome:
        """See FitRecipe."""
        train = given.embed(model, views=self.views)
        chosen = given.embed(model, part="validation") if self.alpha is None else None
        head = GDAClassifier(
            alpha="search" if self.alpha is None else self.alpha,
            precision=self.precision,
            priors=self.priors,
            logit_scale=float(model.logit_scale.detach()),
        ).fit(
            train.image,
            train.labels.numpy(),
            text_weights=given.class_text,
            classes=np.arange(len(given.classes)),
            validation=None if chosen is None else (chosen.image, chosen.labels.numpy()),
        )
        weight = head.logit_scale * head.text_weights_ + head.alpha_ * head.coef_
        bias = torch.from_numpy(head.alpha_ * head.intercept_)
        picked = {} if self.alpha is not None else {"alpha": head.alpha_}
        return Outcome(
            head=LinearHead(torch.from_numpy(weight), classes=given.classes, bias=bias),
            chosen=picked,
        )
