"""A training step made of views and terms."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from tether.core.component import build, closest
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.geometry import geometry_of
from tether.core.printable import quoted
from tether.core.protocols import DualEncoder, Objective, Stateful
from tether.core.types import Batch, Features, Loss
from tether.models.composed.encoder import ComposedEncoder
from tether.models.frozen_copy import buffer_copy
from tether.models.load import fill
from tether.models.patch_attention import Attended
from tether.models.positions import Pair
from tether.models.sides import SIDES
from tether.train.ema import TRAILING, trail_
from tether.train.steps.heads import KeptHead, new_head
from tether.train.steps.module import Encoder, StepModule, ViewRows, loss_inside
from tether.train.steps.teachers import WORDS, Teachers, build_teacher
from tether.train.steps.views import MODEL, TEACHER, VIEWS, ImageView, TextView, View, patch_grid
from tether.train.terms import TERMS, ObjectiveTerm, SeenView, Term, TermInputs
from tether.train.terms.objective import ROLES

OWN = "objective"
"""Name of the term that is the run's objective."""
_OF_PATCHES = ("keep_patches", "patches", "attended", "full_last")
_DIGEST = "weights of the teacher"
Spec = str | dict[str, Any]


class ComposedStep:
    """Everything that a step encodes, and everything that its loss is the sum of.

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
            seed: of all chance.
            views: settings of ``ImageView`` and ``TextView`` by name, or with ``name: KIND`` of another of ``VIEWS``; a
                name that is a source needs none. None has ``image`` and ``text``. ``of: NAME`` takes another view's
                rows, window and all, for another ``encoder``.
            terms: parts of ``TERMS`` or ``OBJECTIVES``, or ``objective``; each may have a ``weight`` and, under ``as``,
                a name in the log. An objective is told its views: ``image``, ``text``, ``negative_image``,
                ``negative_text``, and ``extra``. None has the objective alone.
            heads: parts of ``train.steps.heads.TRAINED_HEADS`` by name.
            teacher: who reads the views with ``encoder: teacher``: ``start``, the model before the run;
                ``{load: NAME}``, a frozen one; ``{ema: {...}}``, one that trails the model, see ``MovingTeacher``.

        Raises:
            InputError: a view or head that nobody uses, or that a term names and there is not.
        """
        given = {"image": {}, "text": {}} if views is None else views
        self.views = {name: _view(name, given, steps=steps, seed=seed) for name in given}
        self._heads, self._seed, self._steps = dict(heads or {}), seed, steps
        self._teachers = Teachers(None if teacher is None else build_teacher(teacher, where="step: teacher"))
        self._guided = [view for view in self.views.values() if isinstance(view, ImageView) and view.guided]
        self._told = {
            n: view for n, view in self.views.items() if isinstance(view, ImageView) and view.untold is not None
        }
        self._check_told()
        self._check_teacher()
        specs: list[Spec] = [OWN] if terms is None else terms
        named = [
            _term(spec, objective, where=f"step: terms, entry {place}", steps=steps, seed=seed)
            for place, spec in enumerate(specs)
        ]
        if not named:
            raise InputError("step: terms: expected at least one")
        self.terms = dict(zip(_numbered([name for name, _, _ in named]), [part[1:] for part in named], strict=True))
        for kind, known in (("views", self.views), ("heads", self._heads)):
            unused = set(known) - ({view.attended for view in self._guided} if kind == "views" else set())
            unused -= {used for view in self._told.values() for used in view.scored_by} if kind == "views" else set()
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
        self._trailed = {name: label for label, (term, _) in self.terms.items() for name in term.trailed}
        self._trailing: dict[str, tuple[nn.Module, nn.Module]] = {}
        if self._trailed and self._teachers.moving is None:
            label = next(iter(self._trailed.values()))
            raise InputError(
                f"step: term {label}: needs a teacher that trails the model, such as teacher: {{ema: {{}}}}"
            )

    def _check_told(self) -> None:
        for name, view in self._told.items():
            choice = view.untold
            assert choice is not None  # it is told
            shown, said = self.views.get(choice.shown), self.views.get(choice.said)
            alike = isinstance(shown, ImageView) and (shown.source, shown.size) == (view.source, view.size)
            if not isinstance(shown, ImageView) or not alike or shown.choice is not None or shown.want != "tokens":
                expected = "a view of the same images with all patches and want: tokens"
                raise InputError(f"step: views: {name}: patches: shown: expected {expected}, got {choice.shown!r}")
            if shown.crop < 1 or view.crop < 1:
                raise InputError(f"step: views: {name}: patches: untold: expected views without crop")
            if said is None or said.side != "text" or said.times != 1:
                raise InputError(f"step: views: {name}: patches: said: expected a view of texts, got {choice.said!r}")
            if {shown.encoder, said.encoder, view.encoder} != {MODEL}:
                raise InputError(f"step: views: {name}: patches: untold: expected views that the model reads")

    def _check_teacher(self) -> None:
        taught, teacher = [view for view in self.views.values() if view.encoder == TEACHER], self._teachers.teacher
        guided, readers = self._guided, {view.encoder for view in self.views.values()}
        if bool(taught or guided) != (teacher is not None):
            asked = "encoder: teacher" if taught else "patches: attentive"
            raise InputError(
                f"step: teacher: no view has encoder: teacher; they have {', '.join(sorted(readers))}"
                if teacher is not None
                else f"step: views: {asked} needs the step's setting teacher, such as teacher: start"
            )
        for view in guided:
            other = view.attended
            seen = [name for name, one in self.views.items() if one in taught and one.side == "image"]
            if other is not None and other not in seen:
                raise InputError(f"step: views: attended: no view of the teacher is {other!r}; {closest(other, seen)}")
        if teacher is None or teacher.like_student:
            return
        for view in taught:
            if isinstance(view, TextView) and (view.rewrite is not None or view.source != ["text"]):
                raise InputError("step: views: a loaded teacher reads the captions, 'text', as they are")

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
        for view in self.views.values():
            if view.encoder not in (MODEL, WORDS, TEACHER):
                self._teachers.load(view.encoder)
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

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See core.protocols.Step; ``model`` is a (wrapped) StepModule.

        Raises:
            InputError: a batch that does not hold what a view is made of.
        """
        return loss_inside(model, self._loss, batch, step=step, gather=gather)

    def _loss(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        seen = self._see(module, batch, step=step, gather=gather)
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

    def _see(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> TermInputs:
        """All views, from one look at the batch."""
        found = {name: view.rows(module, batch, step=step, gather=gather) for name, view in self.views.items()}
        rows = {name: one for name, one in found.items() if one is not None}
        features = self._guide(module, rows, step=step)
        told = {name: view for name, view in self._told.items() if name in rows and view.told_at(step)}
        own = {name: one for name, one in rows.items() if self.views[name].encoder == MODEL and name not in told}
        mine, extra = module.encode(own)
        if told:
            rows |= {
                name: view.hide(rows[name], mine, grid=patch_grid(module, rows[name].rows))
                for name, view in told.items()
            }
            later, more = module.encode({name: rows[name] for name in told})
            mine |= later
            extra = {side: _added(extra[side], more[side]) for side in extra}
        features |= mine
        for name in rows.keys() - features.keys():
            reader = self.views[name].encoder
            self._teachers.check(reader, rows[name], where=f"step: views: {name}")
            features[name] = self._teachers.read(reader, rows[name], batch, micro_batch=module.micro_batch)
        scales = {name: self._teachers.scale(self.views[name].encoder) for name in rows.keys() - mine.keys()}
        views = {
            name: SeenView(one.rows, features[name], {**one.about, **_kept(one), **scales.get(name, {})})
            for name, one in rows.items()
        }
        model = module.model
        heads = dict(module.heads.items())
        geometry, trailing = geometry_of(model), {name: copied for name, (_, copied) in self._trailing.items()}
        read = None if self._teachers.teacher is None else partial(self._read, batch=batch, module=module)
        return TermInputs(batch, views, extra, heads, model.logit_scale, model.logit_bias, geometry, trailing, read)

    def _read(self, images: Tensor, *, batch: Batch, module: StepModule) -> Tensor:
        """Embeddings of other images by the step's teacher."""
        rows = ViewRows("image", images, fixed=False)
        self._teachers.check(TEACHER, rows, where="step: teacher")
        return self._teachers.read(TEACHER, rows, batch, micro_batch=module.micro_batch).pooled

    def _guide(self, module: StepModule, rows: dict[str, ViewRows], *, step: int) -> dict[str, Features]:
        """Choose the patches of guided views, in place; what the teacher made of the views it looked at for that."""
        looks: dict[str, tuple[Attended, Pair]] = {}
        for name, view in self.views.items():
            if not isinstance(view, ImageView) or not view.guided or name not in rows or step >= view.full_from:
                continue
            other = view.attended or name
            if other not in looks:
                self._teachers.check(TEACHER, rows[other], where=f"step: views: {other}")
                looks[other] = self._teachers.attended(rows[other].rows, micro_batch=module.micro_batch)
            look, own = looks[other]
            rows[name] = view.guide(rows[name], look, own=own, of=rows[other], grid=patch_grid(module, rows[name].rows))
        read = {name: look.features for name, (look, _) in looks.items() if self.views[name].encoder == TEACHER}
        wanted = {name: self.views[name].want for name in read}
        return {
            name: one if wanted[name] == "state" else Features(one.pooled)
            for name, one in read.items()
            if wanted[name] != "tokens"
        }

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


def _kept(rows: ViewRows) -> dict[str, Tensor]:
    return {} if rows.keep is None else {"keep": rows.keep}


def _added(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums of two batches."""
    both = {name: first[name] + second[name] for name in first.keys() & second.keys()}
    return {**first, **second, **both}


def _view(name: str, given: Mapping[str, Mapping[str, Any]], *, steps: int, seed: int) -> View:
    """A view from its settings; one of another view has that one's, and its name for whatever is drawn."""
    where, settings, drawn = f"step: views: {name}", dict(given[name]), name
    if "of" in settings:
        drawn = settings.pop("of")
        if not isinstance(drawn, str) or drawn not in given or "of" in given[drawn]:
            known = [other for other in given if "of" not in given[other]]
            raise InputError(f"{where}: of: unknown view {quoted(drawn)}; {closest(str(drawn)[:80], known)}")
        if others := settings.keys() - {"encoder", "want"}:
            raise InputError(
                f"{where}: of: {', '.join(sorted(others))}: only encoder and want can be other than its own"
            )
        kept = {key: value for key, value in given[drawn].items() if key not in _OF_PATCHES}
        settings = {"source": drawn, **kept, **settings}
    source = settings.get("source", name)
    first = source[0] if isinstance(source, Sequence) and not isinstance(source, str) and source else source
    side = next((side for side in SIDES if str(first).endswith(side)), None)
    if side is None:
        raise InputError(f"{where}: expected a source that ends in 'image' or 'text', got {source!r}")
    return build({"name": side, "source": source, **settings}, VIEWS, where=where, steps=steps, seed=seed, view=drawn)


def _term(spec: Spec, objective: Objective, *, where: str, steps: int, seed: int) -> tuple[str, Term, float]:
    """Its name in the log, the term, and its weight."""
    from tether.losses import OBJECTIVES

    values: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    name, weight, known = values.get("name"), values.pop("weight", 1.0), {OWN, *OBJECTIVES, *TERMS}
    if type(weight) not in (int, float) or not 0 <= weight < float("inf"):
        raise InputError(f"{where}: weight: expected a finite number of at least 0, got {weight!r}")
    if not isinstance(name, str) or name not in known:
        raise InputError(f"{where}: unknown term {quoted(name)}; {closest(str(name)[:80], known)}")
    label = str(values.pop("as", name))
    if name in TERMS:
        taken = inspect.signature(TERMS[name].__init__).parameters
        chance: dict[str, Any] = {key: own for key, own in {"steps": steps, "seed": seed}.items() if key in taken}
        return label, build(values, TERMS, where=where, **chance), weight
    roles = {key: values.pop(key) for key in ROLES if key in values}
    if name != OWN:
        objective = build(values, OBJECTIVES, where=where)
    elif others := set(values) - {"name"}:
        raise InputError(f"{where}: {', '.join(others)}: the run's objective has its settings under `objective`")
    term = build({"name": OWN, **roles}, {OWN: ObjectiveTerm}, where=where, objective=objective, steps=steps, seed=seed)
    return label, cast(Term, term), weight


def _numbered(names: Sequence[str]) -> list[str]:
    """The names in order; one that was there before gets a number."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return found
