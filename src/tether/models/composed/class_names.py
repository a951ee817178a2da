"""A classifier's features as embeddings of its class names, without a pair: ConSE and ridge from its weight rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.ranges import Count, Positive, Share, checked

TOP, TEMPERATURE, RIDGE, SHARE = 20, 1.5, 1.0, 0.5
"""Chosen on ImageNet classes held out of the fit, five times 200 of them (docs/guides/models.md)."""


class ClassNameMap(nn.Module):
    """Features of a classifier to the text space of its class names, as the sum of two unit rows.

    The first is ConSE (arXiv 1312.5650): the mean of the likeliest classes' names, weighted by their probabilities.
    The second is linear: the ridge regression that takes each class's weight row to its name. ConSE knows what the
    classes are, the regression also leads to words between and beyond them.

    Attributes:
        classifier: the network's last layer.
        names: (classes, dim) unit embeddings of the class names.
        ridge: the regression.
    """

    @checked
    def __init__(
        self,
        width: Count,
        dim: Count,
        *,
        classes: Count,
        top: Count = TOP,
        temperature: Positive = TEMPERATURE,
        share: Share = SHARE,
    ) -> None:
        """Leave the weights unset; ``starter`` shows how they are fitted.

        Args:
            width: length of the features.
            dim: of the text space.
            classes: that the classifier knows.
            top: likeliest classes that ConSE averages.
            temperature: that its logits are divided by.
            share: of the regression in the sum; the rest is ConSE's.
        """
        super().__init__()
        self.top, self.temperature, self.share = min(top, classes), temperature, share
        self.classifier = nn.Linear(width, classes)
        self.names = nn.Parameter(torch.zeros(classes, dim))
        self.ridge = nn.Linear(width, dim, bias=False)

    def forward(self, features: Float[Tensor, "b w"]) -> Float[Tensor, "b d"]:
        """Rows in the text space, not normalised."""
        logits, likeliest = (self.classifier(features) / self.temperature).topk(self.top, dim=1)
        conse = (logits.softmax(1)[:, :, None] * self.names[likeliest]).sum(1)
        return self.share * F.normalize(self.ridge(features), dim=1) + (1 - self.share) * F.normalize(conse, dim=1)


def ridge_of_rows(
    weight: Float[Tensor, "c w"], names: Float[Tensor, "c d"], *, ridge: float = RIDGE
) -> Float[Tensor, "d w"]:
    """The linear map that takes each class's weight row, less their mean, to its name; in float64.

    Args:
        weight: rows of the classifier.
        names: embeddings of its class names.
        ridge: added to the diagonal of the rows' products, in units of its mean.
    """
    rows = weight.double()
    rows = rows - rows.mean(0)
    products = rows @ rows.T
    products.diagonal().add_(ridge * products.diagonal().mean())
    return (rows.T @ torch.linalg.solve(products, names.double())).T.to(weight.dtype)
