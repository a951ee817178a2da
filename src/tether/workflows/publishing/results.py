"""What was measured of a model, from the JSON files of ``tether eval``, ``tether inspect`` and of runs themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tether.core.atomic_io import local, read_json
from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.shape import MAYBE_NUMBER, NUMBER, check, finite
from tether.evaluate.adaptation.report import FORMAT as ADAPTED
from tether.evaluate.metric_names import SECTIONS, describe, keys_of, shown
from tether.workflows.publishing.shown import place

_TASKS = {
    "text_to_image": "text-to-image-retrieval",
    "image_to_text": "image-to-text-retrieval",
    "text_to_text": "text-retrieval",
    "zero_shot": "zero-shot-image-classification",
}
_RECALL = re.compile(r"_r(?:ecall_)?(\d+)$")
_ACCURACIES = {
    "zero_shot_top1": "accuracy",
    "zero_shot_top5": "top_5_accuracy",
    "zero_shot_mean_per_class": "mean_per_class_recall",
}
_SUITE_METRICS = {
    "acc1": ("zero-shot-image-classification", "accuracy"),
    "acc5": ("zero-shot-image-classification", "top_5_accuracy"),
    "mean_per_class_recall": ("zero-shot-image-classification", "mean_per_class_recall"),
    "lp_acc1": ("image-classification", "accuracy"),
    "lp_acc5": ("image-classification", "top_5_accuracy"),
    "lp_mean_per_class_recall": ("image-classification", "mean_per_class_recall"),
}
_INSPECTION = {
    "digest": str,
    "pairs": str,
    "images": int,
    "sections": [{"name": str, "title": str, "level": str, "sentence": str, "problem": str, "unsaid": str}],
}
_SUITE = {
    "suite": str,
    "numbers": [
        {
            "model": str,
            "set": str,
            "metrics": {"*": {"value": NUMBER, **dict.fromkeys(("chance", "low", "high"), MAYBE_NUMBER)}},
        }
    ],
}
_EVALUATED = {"model": str, "source": str, "version": str, "images": NUMBER, "digest?": str}
_INTERVAL = {"value": NUMBER, "low": MAYBE_NUMBER, "high": MAYBE_NUMBER}
_ADAPTATION = {
    "verdict": str,
    "recipe": str,
    "base": str,
    "gives": str,
    "data": [str],
    "own": [{"name": str, "after": _INTERVAL, "chance": MAYBE_NUMBER, "unit": str, "n": int}],
}


@dataclass(frozen=True, slots=True)
class PublishedNumber:
    """One number of a model.

    Attributes:
        dataset: what it was measured on, in words.
        name: of the number, in words.
        value: shares lie in [0, 1].
        text: the value as people read it.
        low: lower end of its 95 % interval, or None.
        high: upper end, or None.
        chance: what knowing nothing reaches, or None.
        images: how many, or None.
        version: of the data set; may be empty.
        task: the hub's word for it; empty for a number that a ``model-index`` does not list.
        metric: likewise.
        interval: as people read it; may be empty.
        luck: chance, as people read it; may be empty.
    """

    dataset: str
    name: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    images: int | None = None
    version: str = ""
    task: str = ""
    metric: str = ""
    interval: str = ""
    luck: str = ""


@dataclass(frozen=True, slots=True)
class Inspected:
    """A health report: (heading, level, sentence, what it does not tell) of each section."""

    pairs: str
    images: int
    sections: Sequence[tuple[str, str, str, str]]


@dataclass(slots=True)
class KnownResults:
    """All that files say of a model.

    Attributes:
        numbers: in the order of the files.
        inspected: health reports.
        adapted: values of the report of ``tether adapt``, or None.
        left: files beside the model that are of another one, and are not told of.
    """

    numbers: list[PublishedNumber] = field(default_factory=list)
    inspected: list[Inspected] = field(default_factory=list)
    adapted: Mapping[str, Any] | None = None
    left: list[str] = field(default_factory=list)


def read_results(folder: Path | None, files: Sequence[str | Path], *, model: str, digest: str) -> KnownResults:
    """Read the files that were given, and those that lie in the folder of the model or one folder below it.

    Args:
        folder: of the model; None where it has none.
        files: further ones, of ``tether eval --json``, ``tether eval --suite`` or ``tether inspect``.
        model: what the model was loaded by.
        digest: of its weights.

    Raises:
        InputError: a given file that is none of these, or of another model; a malformed one in the folder.
    """
    found, seen = KnownResults(), set[Path]()
    for given in map(local, files):
        values = read_json(given)
        if not (kind := _kind(values)):
            raise InputError(f"{given}: expected JSON of tether eval, tether eval --suite or tether inspect")
        seen.add(given.resolve())
        _take(found, kind, values, where=given, model=model, digest=digest, given=True)
    if folder is not None:
        for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
            if path.resolve() in seen or not path.is_file() or path.name in _NEVER:
                continue
            try:
                values = read_json(path)
            except InputError:
                continue  # of another program
            if kind := _kind(values):
                _take(found, kind, values, where=path, model=model, digest=digest, given=False)
    return found


_NEVER = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.json", "vocab.json", "summary.json")


def _kind(values: Any) -> str:
    if not isinstance(values, Mapping):
        return ""
    if values.get("format") == ADAPTED:
        return "adapt"
    for kind, keys in (
        ("inspect", {"digest", "pairs", "sections", "alarms"}),
        ("suite", {"suite", "models", "numbers"}),
        ("eval", {"model", "source", "version", "images"}),
    ):
        if keys <= values.keys():
            return kind
    return ""


def _take(
    found: KnownResults, kind: str, values: Mapping[str, Any], *, where: Path, model: str, digest: str, given: bool
) -> None:
    """Add a file's contents, or say that it is another model's."""
    shape = {"adapt": _ADAPTATION, "inspect": _INSPECTION, "suite": _SUITE, "eval": _EVALUATED}[kind]
    check(values, shape, where=str(where))
    values = finite(dict(values))
    if kind == "adapt":
        if values["gives"] == "head":
            return
        found.numbers.extend(_adapted_numbers(values))
        found.adapted = values
        return
    if kind == "suite":
        own = [each for each in values["numbers"] if _same(each["model"], model)]
        theirs = ", ".join(sorted({quoted(each["model"]) for each in values["numbers"]}))
    elif "digest" in values:
        own = [values] if values["digest"] == digest else []
        theirs = f"weights with the digest {values['digest'][:12]!r}"
    else:
        own = [values] if _same(values["model"], model) else []
        theirs = quoted(values["model"])
    if not own:
        if given:
            raise InputError(f"{where}: measured on another model: {theirs}; this one is {model!r} ({digest[:12]})")
        found.left.append(where.name)
        return
    if kind == "inspect":
        sections = [
            (one["title"], one["level"], one["sentence"] or one["problem"], one["unsaid"]) for one in values["sections"]
        ]
        found.inspected.append(Inspected(place(values["pairs"]), values["images"], sections))
    elif kind == "suite":
        found.numbers.extend(number for each in own for number in _suite_numbers(each, suite=values["suite"]))
    else:
        metrics = {key: value for key, value in values.items() if type(value) in (int, float)}
        found.numbers.extend(numbers_of(metrics, dataset=_measured_on(values), version=values["version"]))


def _measured_on(values: Mapping[str, Any]) -> str:
    """The source of ``tether eval``, and what of it, and of the embeddings, was looked at."""
    limit, dims = values.get("limit"), values.get("dims")
    part = f", the first {limit:,} rows" if type(limit) is int else ""
    part += f", the first {dims:,} numbers of each embedding" if type(dims) is int else ""
    return place(values["source"]) + part


def _same(name: str, model: str) -> bool:
    """Whether two names of models mean one."""
    if name == model:
        return True
    try:
        one, other = local(name), local(model)
        return one.exists() and other.exists() and one.resolve() == other.resolve()
    except InputError:
        return False


def numbers_of(metrics: Mapping[str, float], *, dataset: str, version: str = "") -> Iterator[PublishedNumber]:
    """What ``evaluate.evaluate`` measured, with intervals and chance."""
    images = int(metrics["images"]) if "images" in metrics else None
    told = [prefixes for name, prefixes in SECTIONS.items() if name != "Geometry"]
    for key in (key for prefixes in told for key in keys_of(metrics, prefixes) if not key.endswith("_mean_rank")):
        way = next((name for name in _TASKS if key.startswith(name)), "")
        recall = _RECALL.search(key)
        metric = f"recall_at_{recall[1]}" if recall else _ACCURACIES.get(key, "")
        low, high = metrics.get(f"{key}_low"), metrics.get(f"{key}_high")
        chance = metrics.get(f"{key}_chance")
        yield PublishedNumber(
            dataset,
            describe(key),
            metrics[key],
            shown(key, metrics[key]),
            low,
            high,
            chance,
            images,
            version,
            task=_TASKS.get(way, "") if metric else "",
            metric=metric,
            interval=_between(low, high, lambda end, key=key: shown(key, end)),
            luck="" if chance is None else shown(key, chance),
        )


def _suite_numbers(values: Mapping[str, Any], *, suite: str) -> Iterator[PublishedNumber]:
    for name, one in values["metrics"].items():
        if one["value"] is None:  # not a number
            continue
        recall = _RECALL.search(name) or re.search(r"recall@(\d+)$", name)
        task, metric = _SUITE_METRICS.get(name, ("", ""))
        if recall:
            way = "text-to-image" if name.startswith("image") else "image-to-text"
            task, metric = f"{way}-retrieval", f"recall_at_{recall[1]}"
        yield PublishedNumber(
            f"{values['set']} of {place(suite)}",
            name.replace("_", " "),
            one["value"],
            _percent(one["value"]),
            one["low"],
            one["high"],
            one["chance"],
            task=task or "image-text-matching",
            metric=metric or re.sub(r"\W+", "_", name),
            interval=_between(one["low"], one["high"], _percent),
            luck="" if one["chance"] is None else _percent(one["chance"]),
        )


def _adapted_numbers(values: Mapping[str, Any]) -> Iterator[PublishedNumber]:
    for one in values["own"]:
        after, share = one["after"], one["unit"] == "share"
        if after["value"] is None:
            continue
        text = _percent if share else lambda value: f"{value:.3f}"
        yield PublishedNumber(
            "the held-out part of what it was adapted to",
            one["name"],
            after["value"],
            text(after["value"]),
            after["low"],
            after["high"],
            one["chance"],
            one["n"],
            interval=_between(after["low"], after["high"], text),
            luck="" if one["chance"] is None else text(one["chance"]),
        )


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _between(low: float | None, high: float | None, text: Any) -> str:
    return "" if low is None or high is None else f"{text(low).removesuffix(' %')} to {text(high).removesuffix(' %')}"
