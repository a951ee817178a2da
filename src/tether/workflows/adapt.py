"""``tether adapt``: a model adapted to a case, and what it forgot."""

from __future__ import annotations

import contextlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, cast

from torch import nn

from tether.adaptation.heads import Head, MasksHead
from tether.adaptation.recipes import RECIPES, Case
from tether.core.component import build, known_in
from tether.core.errors import InputError, MissingExtraError
from tether.core.geometry import check_finite
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.core.registry import Registry
from tether.data import open_source
from tether.data.regions import RegionColumns
from tether.evaluate.adaptation import AdaptReport
from tether.evaluate.adaptation.report import Costs
from tether.models.save import save
from tether.tasks.caption import CAPTION_RECIPES, TextOnlyCaptioner
from tether.tasks.classify.prompts import classes_of, templates_of
from tether.tasks.read import READ_RECIPES, DualReader, SceneReader, VisionLM
from tether.workflows.adaptation.apart import apart, said_of
from tether.workflows.adaptation.boxes import boxes_said
from tether.workflows.adaptation.choose import Choice, choices, fitting, kind_error
from tether.workflows.adaptation.data import Asked, look_at, parts_of
from tether.workflows.adaptation.folder import Existing, check_free, claimed, replaced_result
from tether.workflows.adaptation.interpolation import along, check_told_apart
from tether.workflows.adaptation.learnt import LearntReport, LearntRun
from tether.workflows.adaptation.measure import KEEP, KEEP_LIMIT, Measurer, resting, rows_of
from tether.workflows.adaptation.next_steps import next_steps
from tether.workflows.adaptation.run import OnStep, named, rate_named, run
from tether.workflows.adaptation.texts import open_texts
from tether.workflows.apart import check_begun_elsewhere
from tether.workflows.models import Data, Model, Progress, opened

BEGUN_WITH = ("reader", "captioner", "judge", "judge2", "lm", "vocabulary")
"""Settings of recipes that may be folders of what goes on, or judges."""


@dataclass(frozen=True)
class Adapted:
    """What came of an adaptation.

    Attributes:
        model: the adapted encoder, or None where a head on the base is the result.
        head: a classifier on embeddings, or None.
        report: before and after, what was forgotten, what it cost.
        folder: where it was saved, or None.
        captioner: what writes captions, or None.
        reader: what reads words or pages, or None.
    """

    model: DualEncoder | None
    head: Head | None
    report: AdaptReport | LearntReport
    folder: Path | None = None
    captioner: TextOnlyCaptioner | None = None
    reader: DualReader | SceneReader | VisionLM | None = None

    def __str__(self) -> str:
        """The report in sentences."""
        return "\n".join(self.report.lines())

    def save(self, folder: str | Path) -> Path:
        """Write model (``tether.load`` opens it), head (``adaptation.heads.load_head``), page and numbers."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.head is not None:
            self.head.save(folder)
        if self.model is not None:
            save(cast(nn.Module, self.model), folder)
        for made in (self.captioner, self.reader):
            if made is not None:
                made.save(folder)
        self.report.save(folder)
        return folder

    def _repr_html_(self) -> str:
        return "".join(f"<p>{escape(line)}</p>" for line in self.report.lines())


@dataclass(frozen=True, slots=True)
class AdaptPlan:
    """What will be done, told before it begins.

    Attributes:
        recipe: the name.
        case: what was seen of the data.
        choices: recipes that fit, the one that is taken first; empty where one was asked for.
    """

    recipe: str
    case: Case
    choices: Sequence[Choice]


def adapt(
    model: Model,
    data: Data,
    *,
    recipe: str | Mapping[str, Any] | None = None,
    shots: int | None = None,
    test: Data | None = None,
    keep: Data | None = None,
    label: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
    templates: str | Path | Sequence[str] | None = None,
    interpolate: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    existing: Existing = "refuse",
    workers: int = 0,
    strict: bool = False,
    random_weights: bool = False,
    device: str = "auto",
    on_plan: Callable[[AdaptPlan], None] | None = None,
    on_step: OnStep | None = None,
    on_progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Adapted:
    """Bend a model to a case: labelled images, pairs or texts make it better there, and the report says what it forgot.

    The model that is given is not changed.

    Args:
        model: loaded, or a name that ``tether.load`` takes.
        data: what ``data.open_source`` takes.
        recipe: one of ``adaptation.recipes.RECIPES``, ``tasks.caption.CAPTION_RECIPES`` or ``tasks.read.READ_RECIPES``,
            with underscores or hyphens, or a mapping with ``name`` and its settings; None takes the cheapest that
            suits the data.
        shots: images a class to learn from, drawn by the seed; None takes all.
        test: data to measure on; None holds a part of ``data`` out.
        keep: data that must not be forgotten; None looks at drawings with their names (``emoji:split=test``)
                where the extra ``demo`` is installed.
        label: column of the class; None takes ``label``, or the folder of an image.
        classes: all names there may be; None takes those that occur.
        templates: sentences with ``{}`` for the class name; None takes those that suit the model.
        interpolate: look at weights between the base and the tuned model and take the share that a validation part
            likes best.
        seed: of every draw.
        out: folder for the result, which makes the run resumable; None saves nothing.
        existing: what to do about an adaptation that is there.
        workers: threads that decode.
        strict: stop at the first bad row.
        random_weights: accept a model without trained weights.
        device: where to load the model.
        on_plan: told what will be done, before it begins.
        on_step: told each step of a tuning and how many there are.
        on_progress: told (images embedded, how many there are or None).
        should_stop: asked after each step; when true the run saves and raises ``StoppedError``.

    Raises:
        InputError: no such recipe, data or model; data of another kind than the recipe takes; too few images.
        UnsupportedModelError: a model that the recipe cannot change; it says why.

    Example:
        >>> import tether
        >>> model = tether.load("tiny", random_weights=True)
        >>> done = tether.adapt(model, "digits", recipe="probe", shots=4)
        >>> done.report.own[0].name, len(done.head.classes)
        ('accuracy, mean over classes', 10)
    """
    spec, made = _recipe(recipe)
    learnt_by = None if made is None else made.learnt_by
    idle = {"shots": shots, "test": test, "keep": keep, "label": label, "classes": classes, "templates": templates}
    idle["interpolate"] = interpolate or None
    if learnt_by and (given := [f"--{name}" for name, value in idle.items() if value is not None]):
        raise InputError(f"{given[0]}: does not go with --recipe {spec['name']}, which gives a {made.gives}")
    texts = made is not None and made.takes == "texts"
    source = (open_texts if texts else open_source)(data, where="DATA")
    asked = Asked(
        label=label,
        classes=None if classes is None else classes_of(classes),
        shots=shots,
        test=None if test is None else open_source(test, where="--test"),
        templates=None if templates is None else templates_of(templates),
        seed=seed,
        strict=strict,
        workers=workers,
    )
    kept = None if keep is None else open_source(keep, where="--keep")
    if out is not None:
        check_free(Path(out), existing=existing)
        check_begun_elsewhere(out, {"MODEL": model, **{name: spec.get(name) for name in BEGUN_WITH}})
    base, title = opened(model, device=device, random_weights=random_weights)
    cast(nn.Module, base).eval()
    check_finite(base)
    if learnt_by:
        asked_for = LearntRun(
            spec=spec,
            seed=seed,
            out=out,
            existing=existing,
            strict=strict,
            random_weights=random_weights,
            device=device,
            workers=workers,
            on_step=on_step,
            on_progress=on_progress,
            should_stop=should_stop,
        )
        learnt, told = pkgutil.resolve_name(learnt_by)(base, title, source, made, run=asked_for)
        return Adapted(None, None, told, None if out is None else Path(out), **{made.gives: learnt})
    case = look_at(source, asked)
    found: Sequence[Choice] = ()
    if made is None:
        found = choices(case, base)
        spec, made = {"name": found[0].recipe}, found[0].made
    name = str(spec["name"])
    if made.takes not in case.kinds:
        raise kind_error(name, made, case, source=source.name)
    if interpolate and (made.gives != "model" or made.rebuilds):
        given = "model of another architecture" if made.rebuilds else made.gives
        raise InputError(f"--interpolate: goes with a recipe that gives a model like the base, {name} gives a {given}")
    if interpolate and made.takes == "texts":
        raise InputError(f"--interpolate: goes with images, by which it chooses; {name} takes texts without images")
    with named(name):
        made.check(base)
    if on_plan is not None:
        on_plan(AdaptPlan(name, case, found))
    digest = model_digest(cast(nn.Module, base))
    deciding = {
        "base": digest,
        "recipe": spec,
        "data": [source.name, source.version],
        "test": asked.test and [asked.test.name, asked.test.version],
        **{key: getattr(asked, key) for key in ("label", "classes", "shots", "templates", "seed")},
        "interpolate": interpolate,
    }
    parts = parts_of(
        source, made.takes, asked, model=base, validation=made.validates or interpolate, on_progress=on_progress
    )
    if interpolate and made.takes != "labels":
        assert parts.given.validation is not None
        check_told_apart(parts.given.validation)
    if kept is None and made.gives != "head":
        with contextlib.suppress(MissingExtraError):  # then the report says that it was not measured
            kept = open_source(KEEP)
    said = [*parts.said, *made.remarks(base)]
    if made.columns.get("boxes") is not None:
        said += boxes_said(parts.given.source, RegionColumns(**made.columns))
    if kept is not None and made.gives != "head":
        whole = kept
        kept, out_of_it = apart(whole, learnt=parts.learnt)
        said += said_of(whole, out=out_of_it)
    with contextlib.ExitStack() as held:
        unfinished = None
        if out is not None:
            unfinished = held.enter_context(claimed(Path(out), deciding, existing=existing))
        held.enter_context(rate_named(made, name=name))
        measurer = Measurer(
            base,
            parts.given,
            test=parts.test,
            keep=kept,
            keep_limit=KEEP_LIMIT if keep is None else None,
            templates=asked.templates,
            brought=asked.test is not None,
        )
        with named(name):
            done = run(made, base, parts.given, folder=unfinished, on_step=on_step, should_stop=should_stop)
        adapted, curve, chosen = done.outcome.model, [], None
        if interpolate:
            assert adapted is not None
            assert parts.given.validation is not None
            curve, adapted, chosen = along(base, adapted, validation=parts.given.validation, measurer=measurer)
        own = measurer.own(adapted, done.outcome.head, aims=made.aims, columns=made.columns)
        keeps = measurer.kept(adapted)
        report = AdaptReport(
            recipe=name,
            settings={key: value for key, value in spec.items() if key != "name"},
            why=[str(one) for one in found],
            gives=made.gives,
            base=title,
            digest=digest,
            data=said,
            validation=rows_of(parts.given.validation),
            picked=done.outcome.chosen,
            privacy=done.outcome.privacy,
            own=own,
            keep=keeps,
            keep_source="drawings with their names" if kept is None or keep is None else kept.name,
            frozen=resting(base, adapted, free=done.free),
            costs=Costs(done.seconds, done.cpu_seconds, done.moved, count_of(base)),
            curve=curve,
            chosen=chosen,
            next=list(
                next_steps(
                    made,
                    others=[
                        one.recipe
                        for one in fitting(case, base)[0]
                        if one.recipe != name and one.made.takes == made.takes
                    ],
                    case=case,
                    own=own,
                    keep=keeps,
                    interpolated=interpolate,
                    base=title,
                    folder="FOLDER" if out is None else str(out),
                    classes=done.outcome.head.classes if isinstance(done.outcome.head, MasksHead) else (),
                )
            ),
        )
        result = Adapted(adapted, done.outcome.head, report, None if out is None else Path(out))
        if out is not None:
            with replaced_result(Path(out)) as new:
                result.save(new)
    return result


def count_of(model: DualEncoder) -> int:
    """Numbers that a model has learnt."""
    return sum(parameter.numel() for parameter in cast(nn.Module, model).parameters())


_KNOWN: Registry[Any] = Registry("", {}, including=(RECIPES, CAPTION_RECIPES, READ_RECIPES))
"""Every recipe of ``tether adapt``."""


def _recipe(given: str | Mapping[str, Any] | None) -> tuple[dict[str, Any], Any]:
    """The settings of a recipe and the recipe, nothing where none was asked for; a wrong one before data are read."""
    if given is None:
        return {}, None
    spec = {"name": given} if isinstance(given, str) else dict(given)
    name = spec["name"] = str(spec.get("name")).replace("-", "_")
    if name not in _KNOWN:
        raise InputError(f"--recipe: no recipe {name!r}; {known_in(_KNOWN, name)}")
    kind = _KNOWN[name]
    if (what := kind.goes_on) and not spec.get(what):
        raise InputError(f"--recipe {name}: expected {what}=FOLDER, a {what} that goes on; {kind.made_by} makes one")
    return spec, build(spec, _KNOWN, where="--recipe", finite=True)
