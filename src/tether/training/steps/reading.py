"""Encoding all views of a step: by the model that is trained, and by those that only read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.geometry import geometry_of
from tether.core.types import Batch, Features
from tether.models.towers.positions import Pair
from tether.training.steps.module import StepModule, ViewRows, encode_views
from tether.training.steps.teachers import WORDS, Teachers
from tether.training.steps.views import MODEL, TEACHER, ImageView, TextView, View, patch_grid
from tether.training.terms.term import SeenView, TermInputs

if TYPE_CHECKING:
    from tether.models.features.patch_attention import Attended


class ViewReader:
    """Encodes the views of a step.

    Views of equal shape that the model reads are encoded in one batch. First those that need no other, then those
    whose patches the features of others choose.

    Attributes:
        views: the step's views by name.
        teachers: encoders that read views without learning.
    """

    def __init__(self, views: Mapping[str, View], teachers: Teachers) -> None:
        """Check that the views and the teacher fit each other.

        Args:
            views: the step's views by name.
            teachers: encoders that read views without learning.

        Raises:
            InputError: a view needs another or a teacher that is not there, or nobody needs the teacher.
        """
        self.views, self.teachers = views, teachers
        for name, view in views.items():
            if isinstance(view, ImageView) and view.choice is not None:
                view.choice.check_views(name, views)
        teacher, readers = teachers.teacher, {view.encoder for view in views.values()}
        guided = [view for view in views.values() if view.guided]
        taught = {name: view for name, view in views.items() if view.encoder == TEACHER}
        if teacher is None and (taught or guided):
            asked = "encoder: teacher" if taught else "patches: attentive"
            raise InputError(f"step: views: {asked} needs the step's setting teacher, such as teacher: start")
        if teacher is not None and not (taught or guided):
            raise InputError(f"step: teacher: no view has encoder: teacher; they have {', '.join(sorted(readers))}")
        seen = [name for name, view in taught.items() if view.side == "image"]
        for other in (other for view in guided for other in view.needs):
            if other not in seen:
                raise InputError(f"step: views: attended: no view of the teacher is {other!r}; {closest(other, seen)}")
        if teacher is None or teacher.like_student:
            return
        for view in taught.values():
            if isinstance(view, TextView) and (view.rewrite is not None or view.source != ["text"]):
                raise InputError("step: views: a loaded teacher reads the captions, 'text', as they are")

    @property
    def needed(self) -> set[str]:
        """Names of the views that other views need."""
        return {name for view in self.views.values() for name in view.needs}

    def load(self) -> None:
        """Load the frozen encoders that views name."""
        for name in {view.encoder for view in self.views.values()} - {MODEL, WORDS, TEACHER}:
            self.teachers.load(name)

    def __call__(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> TermInputs:
        """All that terms see of a batch, but the copies that trail heads.

        Args:
            module: module that holds the model and the heads.
            batch: this process's rows.
            step: number of the step, from 0.
            gather: function that joins the rows of all processes.

        Raises:
            InputError: the batch does not hold what a view is made of.
        """
        found = {name: view.rows(module, batch, step=step, gather=gather) for name, view in self.views.items()}
        rows = {name: one for name, one in found.items() if one is not None}
        features = self._guide(module, rows, step=step)
        waiting = [name for name in rows if self.views[name].waits(step)]
        first = {name: rows[name] for name in rows if self.views[name].encoder == MODEL and name not in waiting}
        own, extra = encode_views(module, first)
        if waiting:
            for name in waiting:
                rows[name] = _chosen(self.views[name], rows[name], own, grid=patch_grid(module, rows[name].rows))
            later, more = encode_views(module, {name: rows[name] for name in waiting})
            own |= later
            extra = {side: _added(extra[side], more[side]) for side in extra}
        features |= own
        for name in rows.keys() - features.keys():
            features[name] = self._read(self.views[name].encoder, rows[name], module, batch, where=f"views: {name}")
        scales = {name: self.teachers.scale(self.views[name].encoder) for name in rows.keys() - own.keys()}
        views = {
            name: SeenView(one.rows, features[name], {**one.about, **_kept(one), **scales.get(name, {})})
            for name, one in rows.items()
        }
        model, heads = module.model, dict(module.heads.items())
        read = None if self.teachers.teacher is None else partial(self._other_images, module=module, batch=batch)
        return TermInputs(
            batch, views, extra, heads, model.logit_scale, model.logit_bias, geometry_of(model), read=read
        )

    def _read(self, reader: str, rows: ViewRows, module: StepModule, batch: Batch, *, where: str) -> Features:
        self.teachers.check(reader, rows, where=f"step: {where}")
        return self.teachers.read(reader, rows, batch, micro_batch=module.micro_batch)

    def _other_images(self, images: Tensor, *, module: StepModule, batch: Batch) -> Tensor:
        """Embeddings by the step's teacher."""
        return self._read(TEACHER, ViewRows("image", images, fixed=False), module, batch, where="teacher").pooled

    def _guide(self, module: StepModule, rows: dict[str, ViewRows], *, step: int) -> dict[str, Features]:
        """Select patches of attention-guided views in ``rows``, in place.

        The teacher's features come back, so that they need not be computed again.
        """
        looks: dict[str, tuple[Attended, Pair]] = {}
        for name, view in self.views.items():
            if not isinstance(view, ImageView) or not view.guided or name not in rows or step >= view.full_from:
                continue
            other = view.attended or name
            if other not in looks:
                self.teachers.check(TEACHER, rows[other], where=f"step: views: {other}")
                looks[other] = self.teachers.attended(rows[other].rows, micro_batch=module.micro_batch)
            look, own = looks[other]
            rows[name] = view.guide(rows[name], look, own=own, of=rows[other], grid=patch_grid(module, rows[name].rows))
        read = {name: look.features for name, (look, _) in looks.items() if self.views[name].encoder == TEACHER}
        wanted = {name: self.views[name].want for name in read}
        return {
            name: one if wanted[name] == "state" else Features(one.pooled)
            for name, one in read.items()
            if wanted[name] != "tokens"
        }


def _chosen(view: View, rows: ViewRows, features: Mapping[str, Features], *, grid: Pair) -> ViewRows:
    """The rows of a view that waited, with the patches that the features of others choose."""
    assert isinstance(view, ImageView)
    assert view.choice is not None  # texts and views of all patches do not wait
    return replace(rows, keep=view.choice(view.choice.scores(features), grid=grid))


def _kept(rows: ViewRows) -> dict[str, Tensor]:
    return {} if rows.keep is None else {"keep": rows.keep}


def _added(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums of two batches."""
    both = {name: first[name] + second[name] for name in first.keys() & second.keys()}
    return {**first, **second, **both}
