"""Regions of images and their phrases: through a prompter, or out of the patches inside, as a term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import NonNegative, checked
from tether.core.types import Loss
from tether.losses.boxes import centres, corners, overlap
from tether.losses.region_contrast import Equal, box_distance_loss, region_contrast_loss
from tether.models.heads.prompter import Prompter
from tether.training.terms.region_batch import pooled, regions_of
from tether.training.terms.term import Term, TermInputs


class RegionTextTerm(Term):
    """``region_contrast_loss`` of the batch's regions and their phrases, and where a phrase is told to be.

    With a head ``prompter`` it is CLOC (arXiv 2410.02746), and the image view has ``want: states``; without one the
    patches inside a box are pooled, of a view with ``want: dense`` or ``tokens``, and no boxes are predicted. The run's
    ``contents`` bring ``regions`` with phrases; a batch without any adds 0.
    """

    @checked
    def __init__(
        self,
        *,
        head: str | None = None,
        image: str = "image",
        phrases: str = "region_text",
        regions: str = "regions",
        weights: tuple[NonNegative, NonNegative] = (1.0, 1.0),
        equal: Equal = "left_out",
        box_form: Literal["squared", "absolute"] = "squared",
    ) -> None:
        """Take the views and the settings.

        Args:
            head: a ``prompter``, or None.
            image: view of the images.
            phrases: view of the regions' phrases.
            regions: the batch's regions, those of the images that the view shows: ``regions`` or ``NAME_regions``.
            weights: of the regions' contrast, and of the boxes that a prompter predicts from phrases.
            equal: what equal phrases are to each other, see ``region_contrast_loss``.
            box_form: see ``box_distance_loss``.
        """
        self._head, self._regions, self.heads = head, regions, {} if head is None else {"head": head}
        self.views = {"image": image, "phrases": phrases}
        self.weights = weights
        self.equal: Equal = equal
        self.box_form: Literal["squared", "absolute"] = box_form

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term; it logs both losses without their weights, and the mean IoU of the predicted boxes.

        Raises:
            InputError: no regions with phrases in the batch, a view that does not want what is read, or another
                geometry than the cosine.
        """
        image, phrases = (seen.views[name] for name in self.views.values())
        regions = regions_of(seen, self._regions, view=self.views["image"])
        if seen.geometry.name != "clip":
            raise InputError(f"region_text: compares by cosine, the model's geometry is {seen.geometry.name!r}")
        ids = regions.ids
        assert ids is not None  # regions_of asked for phrases
        valid = regions.valid & (ids >= 0)
        text = phrases.features.pooled
        unit = F.normalize(text.to(torch.promote_types(text.dtype, torch.float32)), dim=1)
        said = unit.unflatten(0, tuple(valid.shape))
        logged: dict[str, torch.Tensor] = {}
        losses = []
        if self._head is None:
            found = pooled(image, regions.boxes, valid=valid, name=self.views["image"])
        else:
            tokens, head = image.features.tokens, cast(Prompter, seen.heads[self._head])
            if not isinstance(head, Prompter):
                raise InputError(f"head: {self._head}: expected a prompter, got {type(head).__name__}")
            if tokens is None or tokens.shape[2] != head.settings["state"]:
                raise InputError(f"view {self.views['image']}: expected want: states, for a prompter reads all tokens")
            found = head.region(tokens, regions.boxes, valid=valid)
            pred = head.ground(tokens, said)
            apart = box_distance_loss(pred, regions.boxes, valid=valid, form=self.box_form, gather=gather)
            losses.append(self.weights[1] * apart)
            iou, _ = overlap(corners(pred.detach()), corners(centres(regions.boxes)).to(pred))
            logged |= {"boxes": apart.detach(), "iou": (iou * valid).sum() / valid.sum().clamp(min=1)}
        wide = found.to(torch.promote_types(found.dtype, torch.float32))
        rows = F.normalize(torch.where(valid[..., None], wide, 1.0), dim=2)
        contrast = region_contrast_loss(
            rows, said, seen.logit_scale, ids=ids, valid=valid, equal=self.equal, gather=gather
        )
        losses.append(self.weights[0] * contrast)
        logged["regions"] = contrast.detach()
        idle = 0.0 * image.features.pooled.sum()  # DDP waits for a gradient of what nothing else may use
        return (Loss(torch.stack(losses).sum() + idle, logged),)
