"""Terms over weak pairs and strongly augmented views: the recipe of CLIP-rocket, and what it was compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import Decay, NonNegative, Positive, checked
from tether.core.types import Loss
from tether.losses.rocket import rocket_loss
from tether.losses.self_supervised import siamese_loss
from tether.methods.improved_baselines.barlow import barlow_loss
from tether.methods.improved_baselines.projectors import PairedProjectors
from tether.methods.improved_baselines.swapped import VIEWS, Iterations, prototype_swapped_loss, swapped_loss
from tether.models.encoders.tower_parts import SIDES, Side
from tether.training.terms.term import Term, TermInputs

Names = list[str] | None


class StrongViewsTerm(Term):
    """A term on one weak pair and any number of strong views of each side, behind a head ``projectors``."""

    def __init__(self, *, head: str, image: str, text: str, local_images: Names, local_texts: Names) -> None:
        """Take the names of the views and of the head.

        Raises:
            InputError: other numbers of strong image than of strong text views.
        """
        images, texts = list(local_images or []), list(local_texts or [])
        if len(images) != len(texts):
            raise InputError(f"local_images, local_texts: expected as many of both, got {len(images)} and {len(texts)}")
        self._head, self.heads = head, {"head": head}
        self._sides: Mapping[Side, list[str]] = {"image": [image, *images], "text": [text, *texts]}
        named: dict[str, str] = {}
        for side, (weak, *strong) in self._sides.items():
            named |= {side: weak} | {f"local_{side}s[{place}]": name for place, name in enumerate(strong)}
        self.views = named

    def projectors(self, seen: TermInputs) -> PairedProjectors:
        """The head."""
        head = seen.heads[self._head]
        if not isinstance(head, PairedProjectors):
            raise InputError(f"head: {self._head}: expected projectors, got {type(head).__name__}")
        return head

    def embeddings(self, seen: TermInputs, side: Side) -> list[Tensor]:
        """Those of the weak view, then those of the strong ones."""
        return [seen.views[name].features.pooled for name in self._sides[side]]

    def projected(self, seen: TermInputs, gather: Gather) -> dict[Side, list[Tensor]]:
        """Projections of all views, each with the statistics of its own batch."""
        project = self.projectors(seen).project
        return {side: [project(side, rows, gather=gather) for rows in self.embeddings(seen, side)] for side in SIDES}

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Places of an image and a text view that belong together: the weak pair, and every two strong views."""
        strong = range(1, len(self._sides["image"]))
        yield 0, 0
        yield from ((one, other) for one in strong for other in strong)


class RocketTerm(StrongViewsTerm):
    """The loss of CLIP-rocket (arXiv 2305.08675): weak pairs with CLIP's own scale, strong views behind projectors.

    It takes the place of the run's objective. The weak views are compared as they are, with the model's scale; the
    strong ones by projections of their own and by the scale of the head. See ``losses.rocket_loss``; with ``swapped``
    SwALIP's term is added, see ``swapped_loss``.
    """

    @checked
    def __init__(
        self,
        *,
        head: str = "projectors",
        image: str = "image",
        text: str = "text",
        local_images: Names = None,
        local_texts: Names = None,
        reduction: Literal["mean", "sum"] = "sum",
        label_smoothing: Decay = 0.1,
        swapped: NonNegative = 0.0,
        eps: Positive = 0.05,
        iters: Iterations = 3,
    ) -> None:
        """Take the views and the settings.

        Args:
            head: ``projectors`` with a ``scale``.
            image: view of the weakly augmented images.
            text: view of the weakly augmented texts.
            local_images: views of the strongly augmented images, at least one.
            local_texts: as many of the texts.
            reduction: of the two directions.
            label_smoothing: of the strong views, in [0, 1).
            swapped: weight of SwALIP's term, 0.2 in the release; it needs two strong views and no smoothing.
            eps: see ``sinkhorn``.
            iters: see ``sinkhorn``.
        """
        super().__init__(head=head, image=image, text=text, local_images=local_images, local_texts=local_texts)
        strong = len(self._sides["image"]) - 1
        if not strong:
            raise InputError("local_images: expected at least one strong view; without any, take an objective")
        if swapped and (strong != VIEWS or label_smoothing):
            raise InputError(
                f"swapped: expected {VIEWS} strong views and label_smoothing 0, got {strong} and {label_smoothing}"
            )
        self._reduction, self._smoothing, self._swapped = reduction, label_smoothing, swapped
        self._eps, self._iters = eps, iters

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term."""
        head = self.projectors(seen)
        weak = {side: self.embeddings(seen, side)[0] for side in SIDES}
        local = {
            side: torch.stack([head.project(side, rows, gather=gather) for rows in self.embeddings(seen, side)[1:]])
            for side in SIDES
        }
        scale = head.scale
        found = rocket_loss(
            weak["image"],
            weak["text"],
            seen.logit_scale,
            local_image=local["image"],
            local_text=local["text"],
            local_scale=scale,
            reduction=self._reduction,
            label_smoothing=self._smoothing,
            gather=gather,
        )
        parts = ("image_global", "text_global", "image_local", "text_local")
        terms = {name: getattr(found, name).detach() for name in parts}
        losses = [Loss(found.total, {**terms, "local_scale": scale.detach()})]
        if self._swapped:
            own = swapped_loss(local["image"], local["text"], scale, eps=self._eps, iters=self._iters, gather=gather)
            losses.append(Loss(self._swapped * own, {"swapped": own.detach()}))
        return losses


class BarlowTerm(StrongViewsTerm):
    """BarLIP (arXiv 2305.08675): channels of both sides' projections agree one by one, see ``barlow_loss``."""

    @checked
    def __init__(
        self,
        *,
        head: str = "barlow",
        image: str = "image",
        text: str = "text",
        local_images: Names = None,
        local_texts: Names = None,
        off_diagonal: NonNegative = 0.005,
        scale: NonNegative = 0.025,
    ) -> None:
        """Take the views and the settings.

        Args:
            head: ``projectors`` with ``last_norm: plain``.
            image: view of the images.
            text: view of their texts.
            local_images: views of the strongly augmented images; None has the one pair alone.
            local_texts: as many of the texts.
            off_diagonal: see ``barlow_loss``.
            scale: see ``barlow_loss``.
        """
        super().__init__(head=head, image=image, text=text, local_images=local_images, local_texts=local_texts)
        self._settings = {"off_diagonal": off_diagonal, "scale": scale}

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term; the mean over the weak pair and all pairs of strong views."""
        rows = self.projected(seen, gather)
        losses = [
            barlow_loss(rows["image"][one], rows["text"][other], **self._settings, gather=gather)
            for one, other in self.pairs()
        ]
        return (Loss(torch.stack(losses).mean()),)


class SiameseTerm(StrongViewsTerm):
    """SiamLIP and BYOLIP (arXiv 2305.08675): each side predicts the other's projection, which gets no gradient.

    With ``targets`` the predicted projections are of other views, such as those of a teacher that trails the model, and
    are made by the head's trailing copy where it has a ``momentum``.
    """

    @checked
    def __init__(
        self,
        *,
        head: str = "siamese",
        image: str = "image",
        text: str = "text",
        local_images: Names = None,
        local_texts: Names = None,
        targets: dict[str, str] | None = None,
    ) -> None:
        """Take the views.

        Args:
            head: ``projectors`` with a ``predictor``.
            image: view of the images.
            text: view of their texts.
            local_images: views of the strongly augmented images; None has the one pair alone.
            local_texts: as many of the texts.
            targets: for each of these views the one that stands for it as a target; None is itself.

        Raises:
            InputError: targets of other views than those.
        """
        super().__init__(head=head, image=image, text=text, local_images=local_images, local_texts=local_texts)
        own = [name for names in self._sides.values() for name in names]
        if targets is not None and sorted(targets) != sorted(own):
            raise InputError(f"targets: expected one for each of {', '.join(own)}, got {', '.join(targets)}")
        self._targets = targets or {}
        self.views = {**self.views, **{f"targets.{name}": target for name, target in self._targets.items()}}

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term; the mean over both directions of the weak pair and of all pairs of strong views."""
        head = self.projectors(seen)
        projected = self.projected(seen, gather)
        said = {side: [head.predict(side, rows, gather=gather) for rows in projected[side]] for side in SIDES}
        wanted = {side: self._wanted(seen, side, projected[side], gather) for side in SIDES}
        losses = [siamese_loss(said["image"][one], wanted["text"][other]) for one, other in self.pairs()]
        losses += [siamese_loss(said["text"][other], wanted["image"][one]) for one, other in self.pairs()]
        return (Loss(torch.stack(losses).mean()),)

    def _wanted(self, seen: TermInputs, side: Side, projected: list[Tensor], gather: Gather) -> list[Tensor]:
        trailing = seen.trailing.get(self._head)
        if not self._targets and trailing is None:
            return projected
        head = trailing if isinstance(trailing, PairedProjectors) else self.projectors(seen)
        names = [self._targets.get(name, name) for name in self._sides[side]]
        with torch.no_grad():
            return [head.project(side, seen.views[name].features.pooled, gather=gather) for name in names]


class PrototypeTerm(StrongViewsTerm):
    """SwALIP with prototypes (arXiv 2305.08675, ``SwALIPV1Loss``): see ``prototype_swapped_loss``."""

    @checked
    def __init__(
        self,
        *,
        head: str = "prototypes",
        image: str = "image",
        text: str = "text",
        temperature: Positive = 0.1,
        eps: Positive = 0.05,
        iters: Iterations = 3,
    ) -> None:
        """Take the views and the settings.

        Args:
            head: ``projectors`` with ``prototypes``.
            image: view of the images.
            text: view of their texts.
            temperature: see ``prototype_swapped_loss``.
            eps: see ``sinkhorn``.
            iters: see ``sinkhorn``.
        """
        super().__init__(head=head, image=image, text=text, local_images=None, local_texts=None)
        self._temperature, self._eps, self._iters = temperature, eps, iters

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term."""
        head, projected = self.projectors(seen), self.projected(seen, gather)
        scores = [head.scores(projected[side][0]) for side in SIDES]
        loss = prototype_swapped_loss(
            *scores, temperature=self._temperature, eps=self._eps, iters=self._iters, gather=gather
        )
        return (Loss(loss),)
