"""Regions of an image and what is said of them, as a term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import NonNegative, checked
from tether.core.types import Loss
from tether.losses.boxes import Over
from tether.losses.checks import caption_labels
from tether.methods.grain.loss import Among, Duplicates, grain_loss
from tether.training.terms.region_batch import regions_of
from tether.training.terms.term import Term, TermInputs


class GroundingTerm(Term):
    """``grain_loss`` (arXiv 2412.04429): a ``grounding`` decoder reads the image view, which has ``want: states``.

    The run's ``contents`` bring ``regions`` with phrases. An image without regions gives CLIP's part alone, a region
    without a phrase its box alone.
    """

    @checked
    def __init__(
        self,
        *,
        head: str = "grounding",
        image: str = "image",
        text: str = "text",
        phrases: str = "region_text",
        regions: str = "regions",
        weights: tuple[NonNegative, NonNegative, NonNegative, NonNegative] = (1.0, 1.0, 1.0, 1.0),
        aux: bool = False,
        captions: Literal["negatives", "positives"] = "negatives",
        duplicates: Duplicates = "negatives",
        among: Among = "process",
        over: Over = "processes",
    ) -> None:
        """Take the views and the settings.

        Args:
            head: a ``grounding``.
            image: view of the images.
            text: view of the captions.
            phrases: view of the regions' phrases.
            regions: the batch's regions, those of the images that the view shows: ``regions`` or ``NAME_regions``.
            weights: see ``grain_loss``; the first at 0 leaves the image's row to other terms.
            aux: see ``grain_loss``.
            captions: whether equal captions are ``negatives`` of each other, as in the release, or ``positives``.
            duplicates: see ``description_loss``.
            among: see ``description_loss``.
            over: see ``box_loss``.
        """
        self._head, self._regions, self.heads = head, regions, {"head": head}
        self.views = {"image": image, "text": text, "phrases": phrases}
        self.weights, self.aux, self.captions = weights, aux, captions
        self.duplicates: Duplicates = duplicates
        self.among: Among = among
        self.over: Over = over

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term.

        Raises:
            InputError: no regions with phrases in the batch, an image view without ``want: states``, or one that moved
                the images away from their regions.
        """
        image, text, phrases = (seen.views[name] for name in self.views.values())
        regions, where = regions_of(seen, self._regions, view=self.views["image"]), f"view {self.views['image']}"
        if image.features.tokens is None:
            raise InputError(f"{where}: expected want: states, for a decoder reads all tokens")
        if seen.geometry.name != "clip":
            raise InputError(f"grounding: compares by cosine, the model's geometry is {seen.geometry.name!r}")
        valid, said = regions.valid, phrases.features.pooled.unflatten(0, tuple(regions.valid.shape))
        out = seen.heads[self._head](image.features.tokens)
        found = grain_loss(
            out,
            text.features.pooled,
            regions.boxes,
            valid,
            said[valid],
            seen.logit_scale,
            weights=self.weights,
            aux=self.aux,
            labels=caption_labels(text.rows) if self.captions == "positives" else None,
            ids=regions.ids,
            duplicates=self.duplicates,
            among=self.among,
            over=self.over,
            gather=gather,
        )
        parts = ("clip", "l1", "giou", "desc", "iou", "accuracy")
        idle = (
            0.0 * image.features.pooled.sum()
        )  # DDP waits for a gradient of the projection, which nothing else may use
        return (Loss(found.total + idle, {part: getattr(found, part).detach() for part in parts}),)
