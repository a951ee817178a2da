"""``tether eval --suite``: one or several models on a folder of test sets, with clip_benchmark's numbers."""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from tether.core.atomic_io import parse_json, read_text, write_json, write_text
from tether.core.errors import InputError
from tether.core.locks import locked
from tether.core.model_digest import model_digest
from tether.core.printable import encodable
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, checked
from tether.data.paths import labels
from tether.data.suites import ChoiceSet, SuiteSet, find_sets
from tether.evaluate.html.templates import render
from tether.evaluate.suites import (
    PairedDifference,
    SuiteNumber,
    choose,
    classify,
    compare,
    multilabel,
    probe,
    retrieval,
    see,
)
from tether.evaluate.suites.compare import headlines
from tether.evaluate.suites.number import from_plain, to_plain
from tether.evaluate.suites.radar import SIDE, radar
from tether.evaluate.suites.zero_shot import class_points, moved_names
from tether.models.texts.long_texts import CutNotice
from tether.tasks.classify.prompts import SLOT
from tether.workflows.models import Model, OnStage, opened

SuiteMeasure = Literal["zero_shot", "retrieval", "choice", "linear_probe"]
SUITE_MEASURES: tuple[SuiteMeasure, ...] = ("zero_shot", "retrieval", "choice")
"""Those that are taken unless others are asked for; ``linear_probe`` embeds the training splits besides."""
RESULT, PAGE, NUMBERS = "suite.json", "suite.html", "numbers"
_FORMAT = 3
"""Goes up when the same images would give other numbers, so that nothing old is taken for new."""
_MOST_BYTES = 1 << 30

Numbers = Mapping[str, SuiteNumber]


@dataclass(frozen=True)
class SuiteResult:
    """Numbers of models on test sets.

    Attributes:
        suite: name of the folder.
        models: their names.
        sets: names of the test sets.
        numbers: by model and set, then by clip_benchmark's name of the number.
        differences: between every two models, see ``evaluate.suites.compare``.
        notes: what a reader must know, such as ties or names in another order.
        fresh: how many pairs of model and set were measured now and not read from ``out``.
    """

    suite: str
    models: tuple[str, ...]
    sets: tuple[str, ...]
    numbers: Mapping[tuple[str, str], Numbers]
    differences: tuple[PairedDifference, ...]
    notes: tuple[str, ...]
    fresh: int

    def __getitem__(self, key: tuple[str, str, str]) -> float:
        """A number by model, set and name."""
        model, dataset, metric = key
        return self.numbers[model, dataset][metric].value

    @property
    def heads(self) -> list[str]:
        """Short names of the models, for tables: of folders what follows the one that they share."""
        return labels(list(self.models))

    def rows(self) -> list[tuple[str, str, list[tuple[str, str]], str]]:
        """Set, number, (value, interval) of each model, and chance, as a person reads them, in per cent."""
        found = []
        for dataset in self.sets:
            for metric in self.numbers[self.models[0], dataset]:
                cells = [self.numbers[model, dataset][metric] for model in self.models]
                shown = [(f"{100 * each.value:.1f}", _ends(each)) for each in cells]
                luck = cells[0].chance
                found.append((dataset, metric, shown, "" if luck is None else f"{100 * luck:.1f}"))
        return found

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "suite": self.suite,
            "models": list(self.models),
            "sets": list(self.sets),
            "numbers": [
                {"model": model, "set": dataset, "metrics": {name: _told(each) for name, each in found.items()}}
                for (model, dataset), found in self.numbers.items()
            ],
            "differences": [_finite(asdict(each)) | {"real": each.real} for each in self.differences],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """A table."""
        wide = max(len(f"{dataset} {metric}") for dataset, metric, *_ in self.rows())
        lines = [f"{self.suite}: " + ", ".join(self.models)]
        for dataset, metric, cells, luck in self.rows():
            shown = "".join(f"{value:>8}" for value, _ in cells)
            lines.append(f"  {f'{dataset} {metric}':<{wide}}{shown}  chance {luck}")
        return "\n".join([*lines, *self.said()])

    def said(self) -> list[str]:
        """Which differences hold, and what else there is to know, a line each."""
        real = [
            f"{each.first} is {'above' if each.value > 0 else 'below'} {each.second} on {each.dataset} in "
            f"{each.metric} by {100 * abs(each.value):.1f} points"
            for each in self.differences
            if each.real
        ]
        count = len(self.differences)
        if count:
            real = [f"{len(real)} of {count} differences hold (p below 5 % by Holm's method)", *real]
        return [*real, *self.notes]

    def _repr_html_(self) -> str:
        rows = [(one, name, *(value for value, _ in cells), luck) for one, name, cells, luck in self.rows()]
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        head = "".join(f"<th>{escape(each)}</th>" for each in ("test set", "number", *self.models, "chance"))
        return f"<table><caption>{escape(self.suite)}</caption><tr>{head}</tr>{body}</table>"

    def page(self) -> str:
        """One HTML page with a radar plot."""
        axes = [(one, name) for one in self.sets for name in headlines(list(self.numbers[self.models[0], one]))]
        short = dict(zip(self.models, self.heads, strict=True))
        lines = [(short[model], [self.numbers[model, one][name].value for one, name in axes]) for model in self.models]
        luck = [self.numbers[self.models[0], one][name].chance or 0.0 for one, name in axes]
        return render(
            "suite.html.j2",
            package="tether.evaluate.suites",
            suite=self.suite,
            models=self.heads,
            full=self.models,
            sets=len(self.sets),
            axes=axes,
            radar=radar(lines, chance=luck),
            side=SIDE,
            rows=self.rows(),
            differences=[
                replace(each, first=short[each.first], second=short[each.second]) for each in self.differences
            ],
            notes=self.notes,
        )


@checked
def suite(
    models: Model | Sequence[Model],
    folder: str | Path,
    *,
    measures: Sequence[SuiteMeasure] = SUITE_MEASURES,
    out: str | Path | None = None,
    templates: Sequence[str] | None = None,
    batch_size: Count = 256,
    bootstrap: int = 1000,
    seed: int = 0,
    workers: int = 2,
    random_weights: bool = False,
    device: str = "auto",
    on_stage: OnStage | None = None,
) -> SuiteResult:
    """Measure models on every test set of a folder, with the numbers that clip_benchmark 1.6.2 takes.

    Args:
        models: loaded, or names that ``tether.load`` takes; one or several.
        folder: of test sets, see ``data.suites.find_sets``.
        measures: which to take of the sets that allow them: ``zero_shot``, ``retrieval``, ``choice`` (between captions)
            and ``linear_probe``, which needs ``train/``.
        out: folder for ``suite.json``, ``suite.html`` and the numbers of each pair of model and set, which another call
            takes from there if weights, set and settings are the same (of a model that is no ``nn.Module`` never);
            None keeps nothing.
        templates: prompts with ``{}`` for the class name, in place of the sets' own.
        batch_size: rows in one forward.
        bootstrap: draws of images for the 95 % intervals; 0 leaves them out.
        seed: of the draws.
        workers: threads that decode images.
        random_weights: accept models without trained weights.
        device: where to load models.
        on_stage: called with what is measured, images done and, where known, in all.

    Raises:
        InputError: no such folder or model, a set that is not whole, a bad row, or nothing to measure.

    Example:
        >>> import json, tempfile, tether
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from tether.workflows.suite import suite
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "images").mkdir()
        >>> for name in ("a", "b"):
        ...     Image.new("RGB", (32, 32), "red" if name == "a" else "blue").save(folder / "images" / f"{name}.png")
        >>> asked = {"image_0": "a", "image_1": "b", "caption_0": "red", "caption_1": "blue"}
        >>> _ = (folder / "examples.jsonl").write_text(json.dumps(asked))
        >>> found = suite(tether.load("tiny", random_weights=True), folder)
        >>> list(found.numbers[found.models[0], found.sets[0]])
        ['text_acc', 'image_acc', 'acc']
    """
    given = [models] if isinstance(models, DualEncoder | str | Path) else list(models)
    unknown = [name for name in measures if name not in get_args(SuiteMeasure)]
    if unknown:
        raise InputError(f"measure: expected {', '.join(get_args(SuiteMeasure))}, got {unknown[0]!r}")
    if not given:
        raise InputError("models: expected at least one")
    sets = [one for one in find_sets(folder) if any(_asked(one, name) for name in measures)]
    if not sets:
        raise InputError(f"{folder}: no test set in it allows {' or '.join(measures)}")
    names = _names(given)
    store = None if out is None else Path(out)
    settings = {"measures": sorted(measures), "templates": templates, "bootstrap": bootstrap, "seed": seed}
    numbers: dict[tuple[str, str], Numbers] = {}
    notes: dict[str, None] = {}
    fresh = 0
    with contextlib.nullcontext() if store is None else locked(store, purpose="tether eval --suite"):
        for one, name in zip(given, names, strict=True):
            encoder, _ = opened(one, device=device, random_weights=random_weights)
            digest = model_digest(encoder) if isinstance(encoder, nn.Module) else None
            for dataset in sets:
                key = {"format": _FORMAT, "model": digest, "set": dataset.version} | settings
                file = None if store is None else store / NUMBERS / _file_name(name, dataset.name)
                kept = None if file is None or digest is None else _kept(file, key=key)
                if kept is None:
                    stage = None if on_stage is None else partial(on_stage, f"{name} on {dataset.name}")
                    kept = _measure(encoder, dataset, measures, templates, batch_size, workers, bootstrap, seed, stage)
                    fresh += 1
                    if file is not None:
                        plain = {each: to_plain(value) for each, value in kept[0].items()}
                        write_json(file, {"key": key, "numbers": plain, "notes": kept[1]})
                numbers[name, dataset.name] = kept[0]
                notes |= dict.fromkeys(f"{name} on {dataset.name}: {note}" for note in kept[1])
        differences = tuple(compare(numbers))
        shown = encodable(Path(folder).resolve().name)
        result = SuiteResult(
            shown, tuple(names), tuple(one.name for one in sets), numbers, differences, tuple(notes), fresh
        )
        if store is not None:
            write_text(store / PAGE, result.page())
            write_json(store / RESULT, result.plain())
    return result


def _measure(
    model: DualEncoder,
    of: SuiteSet,
    measures: Sequence[str],
    templates: Sequence[str] | None,
    batch_size: int,
    workers: int,
    resamples: int,
    seed: int,
    on_progress: Callable[[int, int | None], None] | None,
) -> tuple[dict[str, SuiteNumber], list[str]]:
    """The numbers of one model on one set, and what must be known of them."""
    reading = {"batch_size": batch_size, "workers": workers, "on_progress": on_progress}
    notice = CutNotice(model)
    notes: list[str] = []
    with notice.watching():
        if isinstance(of, ChoiceSet):
            found = choose(model, of, see(model, of, **reading), batch_size=batch_size, resamples=resamples, seed=seed)
        elif of.kind == "retrieval":
            found = retrieval(
                model, see(model, of.source("test"), **reading), batch_size=batch_size, resamples=resamples, seed=seed
            )
        else:
            seen = see(model, of.source("test"), **reading)
            found = {}
            if "zero_shot" in measures:
                prompts = [each.replace(SLOT, "{c}") for each in templates] if templates else of.templates
                if not prompts:
                    raise InputError(
                        f"{of.folder}: no zeroshot_classification_templates.txt; write one, with {{c}} for the name on "
                        f"each line, or give templates (--template)"
                    )
                weights = class_points(model, of.classes, templates=prompts, batch_size=batch_size)
                if of.kind == "multilabel":
                    found |= multilabel(seen, weights, resamples=resamples, seed=seed)
                else:
                    found |= classify(seen, weights, resamples=resamples, seed=seed)
                    moved = moved_names(seen.geometry.similarity(seen.image, weights), seen.labels)
                    notes += filter(None, [moved])
            if "linear_probe" in measures and of.kind == "classification" and of.has("train"):
                train = see(model, of.source("train"), **reading)
                found |= probe(train, seen, resamples=resamples, seed=seed)
            twice = {name for name in of.classes if of.classes.count(name) > 1}
            if twice:
                notes.append(
                    f"{len(twice)} names of classes come twice, such as {min(twice)!r}, and cannot be told apart"
                )
    ties = max(each.ties for each in found.values())
    if ties:
        notes.append(
            f"{ties} questions have another answer exactly as similar as the right one; which of them counts is an "
            f"accident of the order, as in clip_benchmark"
        )
    if notice.told:
        notes.append(f"{notice.told} texts are longer than the model reads, and were cut")
    return found, notes


def _asked(one: SuiteSet, measure: str) -> bool:
    if isinstance(one, ChoiceSet):
        return measure == "choice"
    if one.kind == "retrieval":
        return measure == "retrieval"
    return measure == "zero_shot" or (measure == "linear_probe" and one.kind == "classification" and one.has("train"))


def _names(given: Sequence[Model]) -> list[str]:
    names = [str(one) if isinstance(one, str | Path) else f"{type(one).__name__}" for one in given]
    loaded = [not isinstance(one, str | Path) for one in given]
    twice = next((name for name, own in zip(names, loaded, strict=True) if names.count(name) > 1 and not own), None)
    if twice is not None:
        raise InputError(f"models: {twice} is given twice")
    return [
        f"{name} {number}" if own and names.count(name) > 1 else encodable(name)
        for number, (name, own) in enumerate(zip(names, loaded, strict=True), 1)
    ]


def _file_name(model: str, dataset: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", f"{model}--{dataset}").strip("-.")[-80:]
    digest = hashlib.blake2b(f"{model}\0{dataset}".encode(), digest_size=4).hexdigest()
    return f"{plain}-{digest}.json"


def _kept(file: Path, *, key: Mapping[str, Any]) -> tuple[dict[str, SuiteNumber], list[str]] | None:
    """The numbers of an earlier call, if they are of the same model, set and settings."""
    if not file.is_file():
        return None
    try:
        value = parse_json(read_text(file, limit=_MOST_BYTES), where=str(file))
        if value["key"] != {**key, "templates": None if key["templates"] is None else list(key["templates"])}:
            return None
        return {name: from_plain(each) for name, each in value["numbers"].items()}, list(map(str, value["notes"]))
    except (InputError, KeyError, TypeError, ValueError, AttributeError):  # not what was written there: measured again
        return None


def _ends(found: SuiteNumber) -> str:
    return "" if found.ends is None else f"{100 * found.low:.1f} to {100 * found.high:.1f}"


def _told(found: SuiteNumber) -> dict[str, float | int | None]:
    low, high = found.ends or (None, None)
    return {"value": found.value, "chance": found.chance, "low": low, "high": high, "ties": found.ties}


def _finite(value: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(each, float) and math.isnan(each) else each for name, each in value.items()}
