"""Regions taught by a frozen teacher's labels over a pool of concepts, as a term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.ranges import NonNegative, Positive, Share, Whole, checked
from tether.core.types import Loss
from tether.data.region_proposals import cut_regions, enlarged, jittered, random_boxes
from tether.losses.region_contrast import region_contrast_loss
from tether.losses.region_distill import concept_distill_loss, concept_labels
from tether.training.terms.region_batch import pooled, regions_of
from tether.training.terms.term import LOGIT_SCALE, SeenView, Term, TermInputs


class ConceptTerm(Term):
    """RegionCLIP's losses on boxes (arXiv 2112.09106): a teacher says which concept each shows, the student learns it.

    Boxes need no labels: those of the run's ``contents``, moved a little, and random ones, the same for all images of a
    batch. The teacher looks at its own patches there, or at the boxes cut out, which is better where its patches say
    little. The student learns the teacher's whole distribution (``concept_distill_loss``) and, by contrast, the
    likeliest concept among those of the batch's regions; texts get no gradient. CLIP's own loss is another term.
    """

    @checked
    def __init__(
        self,
        *,
        image: str = "image",
        teacher: str | None = "teacher_image",
        concepts: str = "concepts_text",
        teacher_concepts: str | None = None,
        regions: str | None = "regions",
        jitter: Share = 0.1,
        random: Whole = 0,
        enlarge: Annotated[float, Ge(1)] = 1.5,
        temperature: Positive | None = 0.01,
        threshold: Annotated[float, Ge(0), Lt(1)] = 0.1,
        weights: tuple[NonNegative, NonNegative] = (1.0, 1.0),
        seed: int = 0,
    ) -> None:
        """Take the views and the settings.

        Args:
            image: view of the images by the model, with ``want: dense`` or ``tokens``.
            teacher: the same by a frozen encoder, likewise; None has the step's teacher read each box cut out of the
                images of the view ``image`` and shown alone.
            concepts: view with the ``texts`` of the pool, at least 2, in the student's space.
            teacher_concepts: the same in the teacher's space; None where the spaces are one, as of the teacher
                ``start``.
            regions: the batch's boxes, ``regions`` or ``NAME_regions``; None has random ones alone.
            jitter: how far each side of a box is moved, at most, as a share of the box.
            random: boxes besides, with corners on a grid of 8 pixels.
            enlarge: of boxes that are cut out, how many times as wide and high the crop is, as in CLIPSelf.
            temperature: of teacher and student; None takes one over the logit scale of each, as a small CLIP needs.
            threshold: likelihood below which the teacher's likeliest concept does not count; see ``concept_labels``.
            weights: of distillation and contrast.
            seed: of the boxes.

        Raises:
            InputError: neither boxes of the batch nor random ones.
        """
        if regions is None and not random:
            raise InputError("concepts: expected regions of the batch, or random above 0")
        self.views = {"image": image, "concepts": concepts}
        if teacher is not None:
            self.views = {**self.views, "teacher": teacher}
        if teacher_concepts is not None:
            self.views = {**self.views, "teacher_concepts": teacher_concepts}
        self._regions, self.jitter, self.random, self.enlarge = regions, jitter, random, enlarge
        self.temperature, self.threshold, self.weights, self.seed = temperature, threshold, weights, seed

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term; it logs both losses, and the share of the regions that the teacher is sure of.

        Raises:
            InputError: no regions in the batch, no teacher, views that do not want patches or are of other images,
                spaces of other widths, or another geometry than the cosine.
        """
        image = seen.views[self.views["image"]]
        if seen.geometry.name != "clip":
            raise InputError(f"concepts: compares by cosine, the model's geometry is {seen.geometry.name!r}")
        boxes, valid = self._boxes(seen, image, step=step, gather=gather)
        own = seen.views[self.views["concepts"]]
        theirs = seen.views[self.views.get("teacher_concepts", self.views["concepts"])]
        pool, asked = _pool(own), _pool(theirs)
        flat = valid.flatten()
        student = pooled(image, boxes, valid=valid, name=self.views["image"]).flatten(0, 1)
        told = self._told(seen, image, boxes, valid, width=asked.shape[1])
        for name, rows, texts in (("the model", student, pool), ("the teacher", told, asked)):
            if rows.shape[1] != texts.shape[1]:
                raise InputError(f"concepts: {name} has {rows.shape[1]} dimensions, the texts have {texts.shape[1]}")
        by = seen.views[self.views["teacher"]] if "teacher" in self.views else theirs
        scale = by.about.get(LOGIT_SCALE, seen.logit_scale).detach()
        labels = concept_labels(
            told,
            asked,
            temperature=1 / scale if self.temperature is None else self.temperature,
            threshold=self.threshold,
            valid=flat,
        )
        temperature = 1 / seen.logit_scale.detach() if self.temperature is None else self.temperature
        distill = concept_distill_loss(student, pool, labels, temperature=temperature, gather=gather)
        wide = student.to(torch.promote_types(student.dtype, torch.float32))
        contrast = region_contrast_loss(
            F.normalize(torch.where(flat[:, None], wide, 1.0), dim=1),
            pool[labels.index].to(wide),
            1 / temperature,
            ids=labels.index,
            valid=labels.keep,
            equal="any",
            ways="regions",
        )  # of this process's regions, as in the release
        total = self.weights[0] * distill + self.weights[1] * contrast + 0.0 * image.features.pooled.sum()
        sure = labels.confident.sum() / flat.sum().clamp(min=1)
        return (Loss(total, {"distill": distill.detach(), "concepts": contrast.detach(), "sure": sure}),)

    def _told(self, seen: TermInputs, image: SeenView, boxes: Tensor, valid: Tensor, *, width: int) -> Tensor:
        """(n, d) what the teacher says of each box, without gradient; zeros where there is none."""
        if "teacher" in self.views:
            teacher = seen.views[self.views["teacher"]]
            if len(image.rows) != len(teacher.rows):
                raise InputError(
                    f"concepts: expected the teacher to read the same images, got {len(teacher.rows)} rows"
                )
            return pooled(teacher, boxes, valid=valid, name=self.views["teacher"]).flatten(0, 1).detach()
        if seen.read is None:
            raise InputError("concepts: boxes are cut out for the step's teacher, and there is none: teacher: start")
        size = (image.rows.shape[2], image.rows.shape[3])
        crops = cut_regions(image.rows, enlarged(boxes, factor=self.enlarge), valid=valid, size=size)
        rows = seen.read(crops) if len(crops) else image.features.pooled.new_zeros(0, width)
        return rows.new_zeros(valid.numel(), rows.shape[1]).masked_scatter(valid.flatten()[:, None], rows)

    def _boxes(self, seen: TermInputs, image: SeenView, *, step: int, gather: Gather) -> tuple[Tensor, Tensor]:
        """(b, r, 4) and (b, r): the batch's boxes, moved, then random ones."""
        rows, (height, width) = len(image.rows), image.rows.shape[2:]
        generator = torch.Generator().manual_seed(hash_int(str(step), seed=self.seed, salt="proposals") >> 1)
        found, valid = [], []
        if self._regions is not None:
            regions = regions_of(seen, self._regions, view=self.views["image"], phrases=False)
            whole = (rows * gather.world, *regions.boxes.shape[1:])
            noise = torch.rand(whole, generator=generator)[gather.rank * rows : (gather.rank + 1) * rows]
            noise = noise.to(regions.boxes.device, non_blocking=True)
            found.append(jittered(regions.boxes, share=self.jitter, noise=noise))
            valid.append(regions.valid)
        if self.random:
            boxes = random_boxes(self.random, generator=generator, size=(height, width)).to(image.rows.device)
            found.append(boxes.expand(rows, -1, -1))
            valid.append(torch.ones(rows, self.random, dtype=torch.bool, device=image.rows.device))
        return torch.cat([one.float() for one in found], dim=1), torch.cat(valid, dim=1)


def _pool(view: SeenView) -> Tensor:
    """(c, d) unit texts without gradient, each the mean over its prompts."""
    rows = view.features.pooled.detach()
    unit = F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1)
    prompts = view.about.get("prompts")
    if prompts is None:
        return unit
    return F.normalize(unit.unflatten(0, (-1, len(prompts))).mean(dim=1), dim=1)
