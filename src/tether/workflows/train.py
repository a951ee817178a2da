"""``tether train``: from data, or a recipe, to a run that says what it is worth."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tether.core.atomic_io import local
from tether.core.errors import InputError
from tether.core.model_digest import encoder_digest
from tether.core.protocols import DualEncoder, Source
from tether.core.recipes import find
from tether.core.yaml_files import parse_yaml
from tether.data import SOURCES, open_source
from tether.data.opening import kind_of
from tether.data.words import count_words
from tether.evaluate import evaluate
from tether.evaluate.cutoff import keep_cutoffs
from tether.evaluate.embeddings import embed_source
from tether.evaluate.meaning import Meaning, depth_for, read_meaning, recall_of
from tether.evaluate.measures import check_measurable
from tether.evaluate.measures import measure as measures_of
from tether.models.load import load
from tether.models.tokenizer import TextCutWarning
from tether.training.claim import check_free
from tether.training.config import RunConfig, load_config
from tether.training.epochs import steps_per_epoch
from tether.training.locked_towers import kept_where_resting
from tether.training.parts import check_parts
from tether.training.result import Result
from tether.training.steps.module import Encoder
from tether.workflows.edits import EDITS
from tether.workflows.head_run import check_head_run, gives_head
from tether.workflows.remarks import shared_captions

if TYPE_CHECKING:
    from tether.workflows.plan import TrainingPlan

BOOTSTRAP = 1000


@dataclass(frozen=True)
class TrainedRun:
    """A finished run.

    Attributes:
        folder: of the run; ``tether.load(folder)`` is the model.
        result: steps, seconds, loss and the last evaluation.
        source: of the held-out pairs, or the empty string.
        meaning: what the figures say; None where nothing was held out.
        next: commands to go on with.
    """

    folder: Path
    result: Result
    source: str
    meaning: Meaning | None
    next: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """What the figures say, one sentence a line."""
        lines = list(self.meaning.lines()) if self.meaning else ["Nothing was held out, so nothing was measured."]
        return "\n".join([*lines, f"Model: {self.folder}"])

    def _repr_html_(self) -> str:
        return "".join(f"<p>{escape(line)}</p>" for line in str(self).splitlines())


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run before it begins: its settings, and what was found and chosen where no recipe was given."""

    config: RunConfig
    found: list[str]
    plan: TrainingPlan | None


def train(
    data: str | Path | Mapping[str, Any] | None = None,
    *,
    out: str | Path,
    recipe: str | Path | None = None,
    start: str | None = None,
    settings: Sequence[str] = (),
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
    on_plan: Callable[[Prepared], None] | None = None,
    on_record: Callable[[dict[str, Any]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainedRun:
    """Train a dual encoder on pairs of images and texts.

    With data alone, the source is looked at first: few pairs train a map between the locked towers of ``start``, more
    tune it, millions train from random weights; a tenth of the images is held out and measured on.

    Args:
        data: a folder of images with captions, a CSV, Parquet, tars, or a set's name; see ``data.open_source``.
        out: folder of the run.
        recipe: a YAML file or the name of a recipe of the package instead of a choice; ``data`` replaces its data.
        start: the model to begin with.
        settings: what is other, as ``key=value``.
        seed: of the held-out part and of the run.
        resume: go on from the folder's newest checkpoint.
        device: ``auto``, ``cpu`` or ``cuda``.
        on_plan: gets the settings before the run begins.
        on_record: gets each log record.
        should_stop: asked after every step; when true the run saves and raises ``StoppedError``.

    Raises:
        InputError: the data or a setting, what came and what was expected.

    Example:
        >>> import tempfile, tether
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = tether.train("digits", recipe="demo", out=folder, settings=["size=tiny", "model={}", "steps=2"])
        ...     done.result.steps
        2
    """
    out = local(out)
    if not resume:
        check_free(out)
    prepared = prepare(data, recipe=recipe, start=start, settings=settings, seed=seed)
    if on_plan is not None:
        on_plan(prepared)
    return go(prepared.config, out=out, resume=resume, device=device, on_record=on_record, should_stop=should_stop)


UNNAMED = "model/"
"""What stands in recipes of the package for the model that a run begins with."""


def prepare(
    data: str | Path | Mapping[str, Any] | None,
    *,
    recipe: str | Path | None = None,
    start: str | None = None,
    settings: Sequence[str] = (),
    seed: int = 0,
) -> Prepared:
    """The settings of a run; arguments are those of ``train``."""
    spec, settings = _with_columns(str(data) if isinstance(data, Path) else data, settings)
    given = {key: value for key, value in {"data": spec, "model": start and {"load": start}}.items() if value}
    if recipe is not None or spec is None:
        path = None if recipe is None else find(recipe)
        if path is not None and start and (sizes := load_config(path).model.get("resized")):
            given["model"] = {"load": start, "resized": sizes}
        config = load_config(path, values=given, overrides=settings)
        if config.model.get("load") == UNNAMED and not local(UNNAMED).exists():
            raise InputError(
                f"--recipe {recipe}: goes on from a trained model, and none is named; expected --from MODEL: "
                "open_clip:ViT-B-32/laion2b_s34b_b79k or another, hf:OWNER/NAME, the folder of a run (tether train "
                "DATA --recipe speedrun --out runs/first makes one), or starter, which is no vision transformer"
            )
        return Prepared(_checked(config), [], None)
    from tether.data.survey import survey
    from tether.workflows.plan import plan

    first = load_config(values={"data": spec, "evaluate": {"source": spec}}, overrides=settings)
    if settings:
        check_parts(first, EDITS, where="settings")
    found = survey(open_source(spec, where="data"))
    chosen = plan(found, data=spec, start=start, seed=seed or first.seed)
    config = load_config(values=chosen.recipe, overrides=settings)
    return Prepared(_checked(config), list(found.lines()), chosen)


def _with_columns(
    spec: str | Mapping[str, Any] | None, settings: Sequence[str]
) -> tuple[str | Mapping[str, Any] | None, Sequence[str]]:
    """The source with its own settings, such as ``data.image=COLUMN``; and the other settings."""
    own = {one.partition("=")[0].removeprefix("data."): one for one in settings if one.startswith("data.")}
    if not own or not isinstance(spec, str) or spec.partition(":")[0] in SOURCES:
        return spec, settings
    values = {key: parse_yaml(one.partition("=")[2], where=f"setting {one!r}") for key, one in own.items()}
    named = {"name": kind_of(spec, where="data"), "path": spec, **values}
    return named, [one for one in settings if not one.startswith("data.")]


def _checked(config: RunConfig) -> RunConfig:
    """The settings, once every part takes its own, before data are read."""
    if gives_head(config):
        check_head_run(config)
    elif config.fit is not None:
        from tether.workflows.fit import check_fit

        check_fit(config)
    else:
        check_parts(config, EDITS, where="settings")
    return config


def go(
    config: RunConfig,
    *,
    out: Path,
    resume: bool = False,
    device: str = "auto",
    on_record: Callable[[dict[str, Any]], None] | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    where: str = "settings",
) -> TrainedRun:
    """Run the settings; arguments are those of ``train``, ``where`` is what errors call the settings."""
    if gives_head(config):
        raise InputError(
            f"{where}: fit: gives a head and no model; use tether.adapt, or tether train on the command line"
        )
    wanted, held_out, measure = config.evaluate, None, None
    if wanted is not None:
        held_out = open_source(wanted.source, where=f"{where}: evaluate.source")

        def measure(model: Encoder) -> dict[str, float]:
            kept = kept_where_resting(cast(DualEncoder, model))
            seen = embed_source(kept, held_out, limit=wanted.limit)
            check_measurable(seen, where=held_out.name)
            return measures_of(kept, seen, bootstrap=BOOTSTRAP)

    if config.fit is not None:
        from tether.workflows.fit import fit

        result = fit(
            config,
            folder=out,
            resume=resume,
            evaluate=measure,
            device=device,
            on_record=on_record,
            on_progress=on_progress,
        )
    else:
        from tether.training.run import train as run

        result = run(
            config,
            folder=out,
            resume=resume,
            evaluate=measure,
            on_record=on_record,
            should_stop=should_stop or (lambda: False),
            edits=EDITS,
            device=device,
        )
    meaning = read_meaning(out)
    if meaning is None and held_out is not None and "text_to_image_r10_chance" in result.metrics:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TextCutWarning)  # the run itself has said how many
            meaning = _meaning(config, result, held_out=held_out, out=out, device=device)
        meaning.save(out)
    steps = [] if meaning is None else list(meaning.next_steps(out, data=config.data))
    return TrainedRun(out, result, "" if held_out is None else held_out.name, meaning, next=steps)


def _meaning(config: RunConfig, result: Result, *, held_out: Source, out: Path, device: str) -> Meaning:
    """Measure the finished model on images that it learnt from, as many as were held out, and compare.

    Leaves in the folder what later warns its users: the captions' words, and cutoffs.
    """
    source = open_source(config.data, where="data")
    model = cast(DualEncoder, load(out, device=device))
    scratch = not {"load", "image"} & config.model.keys()  # the model began with random weights
    words = count_words(source, digest=encoder_digest(model), scratch=scratch)
    words.save(out)
    kept = kept_where_resting(model)
    limit = None if config.evaluate is None else config.evaluate.limit
    keep_cutoffs(kept, held_out, limit=limit, folder=out, digest=words.digest)
    pool = int(result.metrics["images"])
    depth = depth_for(pool)
    try:
        known = evaluate(kept, source, measures=("retrieval",), limit=pool)[f"text_to_image_r{depth}"]
    except InputError:
        known = None
    value, low, high, chance = recall_of(result.metrics, depth=depth)
    return Meaning(
        source=held_out.name,
        images=words.images,
        captions=words.captions,
        epochs=None if config.fit is not None else config.steps / steps_per_epoch(config, words.images),
        pool=pool,
        depth=depth,
        held_out=value,
        low=low,
        high=high,
        chance=chance,
        train=known if pool >= 2 else None,
        before=result.metrics.get(
            f"before_text_to_image_r{depth}", _before(config, held_out, depth=depth, limit=limit, device=device)
        ),
        scratch=scratch,
        shared=shared_captions(config, held_out),
    )


def _before(config: RunConfig, held_out: Source, *, depth: int, limit: int | None, device: str) -> float | None:
    """What the model that a run began from finds; None where there is none, or no more."""
    start = config.model.get("load")
    if start is None or config.fit is not None:
        return None
    try:
        kept = kept_where_resting(cast(DualEncoder, load(start, device=device)))
        return evaluate(kept, held_out, measures=("retrieval",), limit=limit)[f"text_to_image_r{depth}"]
    except InputError:
        return None
