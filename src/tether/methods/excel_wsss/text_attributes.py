"""Class texts that take in what clusters of descriptions say: ExCEL's text side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Part, checked
from tether.models.embed import encode_texts

Clusters = Annotated[int, Ge(1)]


@checked
def cluster_texts(rows: Float[Tensor, "n d"], *, clusters: Clusters) -> Float[Tensor, "k d"]:
    """Centres of k-means over the rows of descriptions, in no order that means anything, not normalised.

    Args:
        rows: unit rows of all descriptions of all classes.
        clusters: the paper has 112 for 20 classes and 224 for 80, of 20 descriptions each.

    Raises:
        InputError: fewer different descriptions than clusters.
    """
    different = len(rows.unique(dim=0))
    if different < clusters:
        raise InputError(f"clusters: expected at most {different}, one for each different description, got {clusters}")
    from sklearn.cluster import KMeans

    found = KMeans(clusters, random_state=0, n_init="auto").fit(rows.double().cpu().numpy())
    return torch.from_numpy(found.cluster_centers_).to(rows)


@checked
def enrich_texts(
    texts: Float[Tensor, "c d"], centres: Float[Tensor, "k d"], *, keep: Part = 0.9
) -> Float[Tensor, "c d"]:
    """Each text and the mean of the centres by how well they suit it, as a unit row.

    Source: ExCEL (arXiv 2503.20826), equation 5, and its released code, which gives NaN where no centre is left out.

    Args:
        texts: unit rows of classes.
        centres: of descriptions, see ``cluster_texts``.
        keep: share of the centres that count for a class; the others, rounded down, suit it least.

    Raises:
        InputError: rows of other lengths, or no centre.

    Example:
        >>> import torch
        >>> from tether.methods.excel_wsss.text_attributes import enrich_texts
        >>> found = enrich_texts(torch.eye(2, 3), torch.tensor([[0.0, 0.0, 1.0]]))
        >>> found.round(decimals=2)
        tensor([[0.7100, 0.0000, 0.7100],
                [0.0000, 0.7100, 0.7100]])
    """
    if texts.ndim != 2 or centres.ndim != 2 or texts.shape[1] != centres.shape[1] or not len(centres):
        raise InputError(
            f"centres: expected (k, {texts.shape[-1]}) with one at least, got {tuple(centres.shape)} for texts "
            f"{tuple(texts.shape)}"
        )
    scores = texts @ centres.T
    dropped = int((1 - keep) * len(centres))
    if dropped:
        scores = scores.scatter(1, scores.argsort(dim=1, stable=True)[:, :dropped], -torch.inf)
    return F.normalize(texts + scores.softmax(dim=1) @ centres, dim=1)


@checked
def attribute_centres(
    model: DualEncoder,
    descriptions: Mapping[str, Sequence[str]],
    *,
    clusters: Count | None = None,
    template: str = "a clean origami {}.",
    batch_size: Count = 256,
) -> Float[Tensor, "k d"]:
    """Clusters of what is said of classes, such as ``{"star": ["with five points", ...], ...}``.

    Args:
        model: whose text side reads them.
        descriptions: of each class, without its name; a class may have none.
        clusters: None takes as many for each description as the paper has of 20 classes, 112 for 400, one at least.
        template: put before each description, with ``{}`` for the class.
        batch_size: texts in one forward.

    Raises:
        InputError: not one description, a template without ``{}``, or more clusters than descriptions.
    """
    if "{}" not in template:
        raise InputError(f"template: expected one with {{}} for the class, got {template!r}")
    said = [f"{template.format(name)} {one}" for name, some in descriptions.items() for one in some]
    if not said:
        raise InputError("descriptions: expected one at least, got none")
    rows = F.normalize(encode_texts(model, said, batch_size=batch_size), dim=1)
    return cluster_texts(rows, clusters=max(1, round(0.28 * len(said))) if clusters is None else clusters)
