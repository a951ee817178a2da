"""How often images of a group are put into a class that does harm, and how the list of classes matters."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.evaluate.checks import checked_pair
from tether.evaluate.groups import Labels, Share, coded, listed, wilson
from tether.evaluate.zero_shot import LOGIT_SCALE


@dataclass(frozen=True, slots=True)
class HarmRate:
    """One group and one category of classes.

    Attributes:
        group: of the images.
        category: of the classes.
        share: of the group's images whose most similar class is of this category.
    """

    group: Hashable
    category: Hashable
    share: Share


@dataclass(frozen=True, slots=True)
class HarmRates:
    """Every group with every category.

    Attributes:
        rows: groups in order, and within a group its categories in order.
        groups: names of the groups.
        categories: names of the categories that are reported.
        classes: how many classes were offered; rates depend on it.
        scale: what cosines were multiplied by; the most similar class does not depend on it, probabilities do.
    """

    rows: tuple[HarmRate, ...]
    groups: tuple[Hashable, ...]
    categories: tuple[Hashable, ...]
    classes: int
    scale: float

    def of(self, group: Hashable, *, category: Hashable) -> Share:
        """The fraction of one group and category."""
        for row in self.rows:
            if (row.group, row.category) == (group, category):
                return row.share
        raise InputError(f"no group {group!r} with category {category!r} here")


@dataclass(frozen=True, slots=True)
class ClassDesign:
    """The same images with a shorter and a longer list of classes.

    Attributes:
        before: rates with the classes as they were.
        after: rates with the added ones.
        difference: rate after minus rate before, in the order of ``before.rows``; never above 0 for a category that
            got no new class.
        relative: the difference as a fraction of the rate before; NaN where that is 0.
    """

    before: HarmRates
    after: HarmRates
    difference: tuple[float, ...]
    relative: tuple[float, ...]


def harm_rates(
    image: Float[Tensor, "n d"],
    *,
    class_text: Float[Tensor, "c d"],
    category: Labels,
    group: Labels,
    groups: Sequence[Hashable] | None = None,
    report: Sequence[Hashable] | None = None,
    scale: float = LOGIT_SCALE,
) -> HarmRates:
    """For each group the fraction of its images whose most similar class belongs to each category.

    Ties go to the first class. Groups are yours: planted, or given by the people concerned; nothing here infers them.
    Say with every rate which classes and which prompts it was measured with: both move it.

    Source: arXiv 2108.02818; the interval is not stated there, Wilson's is used.

    Args:
        image: (n, d) unit images.
        class_text: (c, d) unit class prompts.
        category: (c,) of each class, such as ``"neutral"`` and ``"harm"``.
        group: (n,) of each image.
        groups: all groups, so that an empty one is listed too; None takes those that occur.
        report: categories to give; None gives all.
        scale: multiplier of cosines, kept with the result.

    Example:
        >>> import torch
        >>> from tether.methods.evaluating_clip import harm_rates
        >>> image = torch.eye(3)[[0, 0, 1, 2]]  # unit embeddings of four images
        >>> group = ["brick", "brick", "paper", "paper"]
        >>> category = ["neutral", "neutral", "faulty"]  # of three classes
        >>> rates = harm_rates(image, class_text=torch.eye(3), category=category, group=group)
        >>> rates.of("brick", category="faulty").rate, rates.of("paper", category="faulty").rate
        (0.0, 0.5)
    """
    image, class_text = checked_pair(image, class_text)
    categories, of_class = coded(category, name="category")
    names, of_image = coded(group, name="group", known=groups)
    if len(of_class) != len(class_text):
        raise InputError(f"category: expected one for each of {len(class_text)} classes, got {len(of_class)}")
    if len(of_image) != len(image):
        raise InputError(f"group: expected one for each of {len(image)} images, got {len(of_image)}")
    wanted = categories if report is None else tuple(report)
    if strange := [name for name in wanted if name not in categories]:
        raise InputError(f"report: expected categories of {', '.join(map(str, categories))}, got {strange[0]!r}")
    said = of_class[(image @ class_text.T).argmax(dim=1).cpu()]
    counts = torch.bincount(of_image * len(categories) + said, minlength=len(names) * len(categories))
    table = counts.view(len(names), len(categories))
    rows = tuple(
        HarmRate(name, kind, wilson(int(table[at, categories.index(kind)]), n=int(table[at].sum())))
        for at, name in enumerate(names)
        for kind in wanted
    )
    return HarmRates(rows, names, wanted, len(class_text), scale)


def class_design_effect(
    image: Float[Tensor, "n d"],
    *,
    class_text: Float[Tensor, "c d"],
    category: Labels,
    group: Labels,
    add: Float[Tensor, "a d"],
    add_category: Labels,
    groups: Sequence[Hashable] | None = None,
    scale: float = LOGIT_SCALE,
) -> ClassDesign:
    """What adding classes to the list does to the rates: a class that fits better takes images from the others.

    Source: arXiv 2108.02818.

    Args:
        image: (n, d) unit images.
        class_text: (c, d) unit prompts of the classes before.
        category: (c,) of each of them.
        group: (n,) of each image.
        add: (a, d) unit prompts of the added classes.
        add_category: (a,) of each of them; one that was not there before is reported only after.
        groups: all groups, so that an empty one is listed too.
        scale: multiplier of cosines, kept with the result.
    """
    both = [*listed(category), *listed(add_category)]
    if len(listed(add_category)) != len(add):
        raise InputError(f"add_category: expected one for each of {len(add)} classes, got {len(listed(add_category))}")
    class_text, add = checked_pair(class_text, add)
    before = harm_rates(image, class_text=class_text, category=category, group=group, groups=groups, scale=scale)
    longer = torch.cat([class_text, add])
    after = harm_rates(image, class_text=longer, category=both, group=group, groups=groups, scale=scale)
    difference = tuple(after.of(row.group, category=row.category).rate - row.share.rate for row in before.rows)
    relative = tuple(
        change / row.share.rate if row.share.rate else float("nan")
        for change, row in zip(difference, before.rows, strict=True)
    )
    return ClassDesign(before, after, difference, relative)
