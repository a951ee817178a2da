"""A training step made of views and terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.protocols import DualEncoder, Objective, Stateful
from tether.core.types import Batch, Loss
from tether.models.composed.encoder import ComposedEncoder
from tether.models.load import fill
from tether.models.towers.frozen_copy import buffer_copy
from tether.training.ema import TRAILING, trail_
from tether.training.steps.heads import KeptHead, new_head
from tether.training.steps.module import Encoder, InsideStep, StepModule
from tether.training.steps.reading import ViewReader
from tether.training.steps.settings import OWN, Spec, build_terms, build_view
from tether.training.steps.teachers import Teachers, build_teacher
from tether.training.terms.term import TermInputs

_DIGEST = "weights of the teacher"


class ComposedStep(InsideStep):
    """Everything that a step encodes, and all terms whose sum is its loss.

    ``views`` are encoded in one forward, those of equal shape in one batch; ``terms`` are an objective over some of
    them, or another of ``TERMS``; ``heads`` are modules that terms call, which are trained and saved with the run and
    are no part of the model. It is a ``core.protocols.Step``; the steps of other names are settings of it.

    Attributes:
        views: by name.
        terms: by the name they have in the log, each with its weight.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        steps: int,
        seed: int,
        views: dict[str, dict[str, Any]] | None = None,
        terms: list[Spec] | None = None,
        heads: dict[str, Spec] | None = None,
        teacher: Spec | None = None,
    ) -> None:
        """Read what the step is made of.

        Args:
            objective: the run's objective; the term ``objective`` is this one.
            steps: length of the run.
            seed: seed of all random draws.
            views: settings of ``ImageView`` and ``TextView`` by name, or with ``name: KIND`` of another of ``VIEWS``; a
                name that is a source needs none. With None the views are ``image`` and ``text``. ``of: NAME`` lets
                another ``encoder`` read the rows of another view, in the same window.
            terms: parts of ``TERMS`` or ``OBJECTIVES``, or ``objective``; each may have a ``weight`` and, under ``as``,
                a name in the log. An objective is told its views: ``image``, ``text``, ``negative_image``,
                ``negative_text``, and ``extra``. None has the objective alone.
            heads: parts of ``training.steps.heads.TRAINED_HEADS`` by name.
            teacher: who reads the views with ``encoder: teacher``: ``start``, the model before the run;
                ``{load: NAME}``, a frozen one; ``{ema: {...}}``, one that trails the model, see ``MovingTeacher``.

        Raises:
            InputError: a view or head that nobody uses, or that a term names and there is not.
        """
        given = {"image": {}, "text": {}} if views is None else views
        self.views = {name: build_view(name, given, steps=steps, seed=seed) for name in given}
        self._heads, self._seed, self._steps = dict(heads or {}), seed, steps
        self._teachers = Teachers(None if teacher is None else build_teacher(teacher, where="step: teacher"))
        self._read_views = ViewReader(self.views, self._teachers)
        self.terms = build_terms([OWN] if terms is None else terms, objective, steps=steps, seed=seed)
        self._check_names()
        self._trailed = {name: label for label, (term, _) in self.terms.items() for name in term.trailed}
        self._trailing: dict[str, tuple[nn.Module, nn.Module]] = {}
        if self._trailed and self._teachers.moving is None:
            label = next(iter(self._trailed.values()))
            raise InputError(
                f"step: term {label}: needs a teacher that trails the model, such as teacher: {{ema: {{}}}}"
            )

    def _check_names(self) -> None:
        """Refuse a term that names a view or a head that is not there, and one that nobody uses."""
        for kind, known in (("views", self.views), ("heads", self._heads)):
            unused = set(known) - (self._read_views.needed if kind == "views" else set())
            for label, (term, _) in self.terms.items():
                for key, name in getattr(term, kind).items():
                    if name not in known:
                        raise InputError(
                            f"step: term {label}: {key}: unknown name {name!r} among its {kind}; {closest(name, known)}"
                        )
                    if kind == "views" and self.views[name].optional and not key.startswith("negative"):
                        raise InputError(
                            f"step: term {label}: {key}: only hard negatives may be optional, not {name!r}"
                        )
                    unused.discard(name)
            if unused:
                raise InputError(f"step: {kind}: no term uses {', '.join(sorted(unused))}")

    def see_start(self, model: DualEncoder) -> None:
        """See core.protocols.Taught."""
        if self._teachers.teacher is not None:
            self._teachers.teacher.see_start(cast(Encoder, model))

    def follow_(self, *, step: int) -> None:
        """See core.protocols.Taught."""
        moving = self._teachers.moving
        if moving is not None:
            moving.follow_(step=step)
        for head, copied in self._trailing.values():
            momentum = cast(float | None, getattr(head, "momentum", None))
            if momentum is None:
                assert moving is not None  # or the terms would have been refused
                momentum = moving.momentum_at(step)
            trail_(copied, head, momentum=momentum)

    def teacher_tensors(self) -> dict[str, Tensor]:
        """See core.protocols.Taught."""
        return {} if self._teachers.moving is None else self._teachers.moving.tensors()

    def load_teacher_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """See core.protocols.Taught."""
        if self._teachers.moving is not None:
            self._teachers.moving.load(dict(tensors))

    def new_heads(self, model: DualEncoder) -> dict[str, nn.Module]:
        """The trainable modules of the terms, for the model that is trained, and copies that trail some of them.

        Frozen encoders are loaded, too.
        """
        self._read_views.load()
        if self._teachers.teacher is not None:
            self._teachers.teacher.see_now(cast(Encoder, model), steps=self._steps)
        found = {name: new_head(self._heads[name], name=name, model=model, seed=self._seed) for name in self._heads}
        locked = isinstance(model, ComposedEncoder) and model.parts.image.locked
        if locked and (dense := [name for name, head in found.items() if getattr(head, "teaches_tower", False)]):
            raise InputError(
                f"step: heads: {dense[0]}: teaches the image tower, which is locked, and is dropped at the end: "
                "nothing of the labels would stay; expected a model whose image tower learns"
            )
        for name, head in found.items():
            if _is_kept(self._heads[name]):
                cast(KeptHead, head).check_kept(model)  # now rather than at the end
        self._trailing = {
            name: (head, buffer_copy(head))
            for name, head in found.items()
            if name in self._trailed or getattr(head, "momentum", None) is not None
        }
        return found | {name + TRAILING: copied for name, (_, copied) in self._trailing.items()}

    def finished(self, model: DualEncoder, heads: Mapping[str, Tensor]) -> DualEncoder:
        """See core.protocols.Finishing: with a head that is ``kept``, if there is one."""
        for name, spec in self._heads.items():
            if _is_kept(spec):
                head = new_head(self._heads[name], name=name, model=model, seed=self._seed)
                prefix = f"{name}."
                own = {key.removeprefix(prefix): value for key, value in heads.items() if key.startswith(prefix)}
                fill(head, own, where=f"head {name}")
                return cast(KeptHead, head).kept_in(model)
        return model

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep.

        Raises:
            InputError: a batch that does not hold what a view is made of.
        """
        seen = self.see(module, batch, step=step, gather=gather)
        total: Tensor | None = None
        logged: dict[str, Tensor] = {}
        for label, (term, weight) in self.terms.items():
            added = term(seen, step=step, gather=gather)
            for loss in added:
                part = loss.total if weight == 1 else weight * loss.total
                total = part if total is None else total + part
                logged |= {f"{label}.{name}" if name in logged else name: value for name, value in loss.terms.items()}
            if len(self.terms) > 1:
                logged[f"{label}.total" if label in logged else label] = torch.stack(
                    [loss.total.detach() for loss in added]
                ).sum()
        assert total is not None  # there is a term
        return Loss(total, logged)

    def see(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> TermInputs:
        """All that the terms see of a batch.

        Raises:
            InputError: a batch that does not hold what a view is made of.
        """
        seen = self._read_views(module, batch, step=step, gather=gather)
        return replace(seen, trailing={name: copied for name, (_, copied) in self._trailing.items()})

    def state_dict(self) -> dict[str, Any]:
        """That of every term that has one, and which teacher stays; a teacher that moves has tensors of its own."""
        found = {name: term.state_dict() for name, (term, _) in self.terms.items() if isinstance(term, Stateful)}
        digest = self._teachers.digest()
        return found if digest is None else {**found, _DIGEST: digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another instance of the same settings.

        Raises:
            InputError: the teacher has other weights than it had.
        """
        digest = self._teachers.digest()
        if digest is not None and state.get(_DIGEST, digest) != digest:
            raise InputError("step: teacher: its weights are not those that the run began with")
        for name, (term, _) in self.terms.items():
            if isinstance(term, Stateful):
                term.load_state_dict(state[name])


def _is_kept(spec: Spec) -> bool:
    """Whether a head becomes part of the model that is saved."""
    return isinstance(spec, dict) and spec.get("saved") == "kept"
