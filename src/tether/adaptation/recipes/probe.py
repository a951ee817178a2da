"""A logistic regression on the embeddings of labelled images."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from tether.adaptation.heads.linear import LinearHead
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.recipe import Case, FitRecipe
from tether.adaptation.recipes.tuning import Outcome
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Positive, checked

STRENGTHS = tuple(10.0**power for power in range(-2, 5))


class LinearProbe(FitRecipe):
    """Logistic regression of scikit-learn on embeddings of length 1: the linear probe of arXiv 2103.00020, section 3.2.

    It knows nothing of the class names. Without ``strength`` the inverse strength of its L2 penalty is the one of a
    ladder that tells most of the validation part rightly, the smallest of equals.
    """

    takes = "labels"
    gives = "head"
    cost = 1.0
    least = 4

    @checked
    def __init__(self, *, strength: Positive | None = None, iterations: Count = 1000) -> None:
        """Take the settings.

        Args:
            strength: scikit-learn's ``C``; None chooses it on the validation part.
            iterations: of the solver, at most.
        """
        self.strength, self.iterations = strength, iterations
        self.validates = strength is None

    @classmethod
    def suits(cls, case: Case) -> str:
        """See Recipe."""
        return f"{case.least} images a class or more are enough to learn a line between {case.classes} classes from"

    def fit(self, model: DualEncoder, given: Given) -> Outcome:
        """See FitRecipe."""
        train = given.embed(model)
        image, labels = F.normalize(train.image, dim=1).numpy(), train.labels.numpy()
        strengths = STRENGTHS if self.strength is None else (self.strength,)
        made = [LogisticRegression(C=one, max_iter=self.iterations).fit(image, labels) for one in strengths]
        best = 0
        if self.strength is None:
            chosen = given.embed(model, part="validation")
            known, right = F.normalize(chosen.image, dim=1).numpy(), chosen.labels.numpy()
            best = int(np.argmax([one.score(known, right) for one in made]))
        picked = {} if self.strength is not None else {"strength": strengths[best]}
        return Outcome(head=LinearHead.of(made[best], classes=given.classes), chosen=picked)
