"""What is left of a text's answer when somebody changes a character or two of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Whole, checked
from tether.methods.leaf.attack import Alphabet, charmer_attack, encode_read, leaf_attack, random_typos
from tether.methods.leaf.typos import ALPHABET, Constraint
from tether.models.texts.truncation_check import FitsContext, unheard


@dataclass(frozen=True, slots=True)
class TypoRobustness:
    """Answers of texts before and after an attack.

    Attributes:
        clean: (n,) whether a text's best answer is the right one.
        attacked: (n,) the same of the changed texts.
        distance: mean squared distance of the changed texts' rows from the clean ones'.
        texts: the changed ones.
        cut: of those, how many the model does not read to their ends while it did before.
        encodings: texts that were embedded for the attack.
    """

    clean: Bool[Tensor, " n"]
    attacked: Bool[Tensor, " n"]
    distance: float
    texts: tuple[str, ...]
    cut: int
    encodings: int

    @property
    def accuracy(self) -> tuple[float, float]:
        """Shares of right answers, clean and attacked."""
        return float(self.clean.double().mean()), float(self.attacked.double().mean())


@checked
def typo_robustness(
    model: DualEncoder,
    texts: Sequence[str],
    *,
    gallery: Float[Tensor, "m d"],
    labels: Int[Tensor, " n"],
    attack: Literal["charmer", "leaf", "random"] = "charmer",
    objective: Literal["margin", "l2"] = "margin",
    clean: Float[Tensor, "n d"] | None = None,
    k: Whole = 1,
    n: Count = 20,
    rho: Count = 50,
    alphabet: Alphabet = ALPHABET,
    constraint: Constraint | None = None,
    generator: torch.Generator | None = None,
) -> TypoRobustness:
    """Attack texts that are to find something among images, or among the texts of classes.

    Source: arXiv 2506.03355, section 5, with the attack of arXiv 2405.04346.

    Args:
        model: any that ``tether.load`` gives and that compares by the cosine, in evaluation mode.
        texts: n of them: captions whose images are looked for, class names, or sentences to classify.
        gallery: rows of what they choose from, of this model: images, or texts of classes.
        labels: (n,) the right one of each.
        attack: ``charmer`` is the strongest and costs some 2,000 encodings a text, ``leaf`` 2 rho, and ``random`` is
            the best of as many random typos.
        objective: ``margin`` wants a wrong answer and stops there, ``l2`` a row far from ``clean``.
        clean: rows of the clean texts that distances are from; this model's own if None. For a tuned model those of the
            model before.
        k: characters that may change.
        n: see ``charmer_attack``.
        rho: see ``leaf_attack``.
        alphabet: see ``leaf_attack``.
        constraint: see ``leaf_attack``.
        generator: see ``leaf_attack``; ``charmer`` draws nothing.

    Raises:
        InputError: no text, a label out of range, a model of another geometry, or as for ``leaf_attack``.

    Example:
        >>> import tether, torch
        >>> from tether.methods.leaf import typo_robustness
        >>> from tether.models.embed import encode_texts
        >>> model, names = tether.load("tiny", random_weights=True), ["cat", "dog"]
        >>> rows = encode_texts(model, names)
        >>> found = typo_robustness(model, names, gallery=rows, labels=torch.arange(2), n=3)
        >>> found.accuracy[0], found.cut
        (1.0, 0)
    """
    if geometry_of(model).name != "clip":
        raise InputError(f"expected a model that compares by cosine, its geometry is {geometry_of(model).name!r}")
    encode, fits = encode_read(model), FitsContext(model)
    with unheard():
        own = encode(list(texts))
        wanted = own if clean is None else clean.to(own)
        before = (F.normalize(own, dim=1) @ F.normalize(gallery.to(own), dim=1).T).argmax(dim=1) == labels.cpu()
        margin = objective == "margin"
        settings: dict[str, Any] = {"k": k, "alphabet": alphabet, "constraint": constraint, "objective": objective}
        settings["labels"] = labels.cpu() if margin else None
        given = (encode, texts, gallery if margin else wanted)
        if attack == "charmer":
            found = charmer_attack(*given, n=n, **settings)
        elif attack == "leaf":
            found = leaf_attack(*given, rho=rho, generator=generator, **settings)
        else:
            found = random_typos(*given, tries=2 * rho, generator=generator, **settings)
    after = (F.normalize(found.features, dim=1) @ F.normalize(gallery.to(own), dim=1).T).argmax(dim=1) == labels.cpu()
    lost = [old and not new for old, new in zip(fits.whole(texts), fits.whole(found.texts), strict=True)]
    distance = float((found.features - wanted).square().sum(dim=1).mean())
    return TypoRobustness(before, after, distance, found.texts, sum(lost), found.encodings)
