"""Run the probes one after the other, keep what is finished, and write the page and the JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import itertools
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tether import __version__
from tether.core.atomic_io import read_json, write_json, write_text
from tether.core.component import settings
from tether.core.errors import InputError, MissingExtraError
from tether.core.finding import Finding
from tether.core.locks import locked
from tether.core.model_digest import encoder_digest
from tether.core.protocols import DualEncoder, Probe, Source
from tether.core.shape import finite
from tether.data.features.selection import source_digest
from tether.evaluate.inspect import PROBES
from tether.evaluate.inspect.above_chance import without_skill
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.embedding_cache import gather
from tether.evaluate.inspect.health_report import Report, Section

LIMIT = 10_000
"""Rows looked at when nothing else is said, spread over the source."""
PAGE, NUMBERS, KEPT = "inspect.html", "inspect.json", "kept"


def inspect_model(
    model: DualEncoder,
    source: Source,
    *,
    out: Path | str,
    model_name: str = "MODEL",
    source_name: str | None = None,
    probes: Sequence[str | Mapping[str, Any] | Probe[Subject]] | None = None,
    limit: int = LIMIT,
    label: str | None = None,
    batch_size: int = 64,
    workers: int = 0,
    strict: bool = False,
    seed: int = 0,
    on_progress: Callable[[str, int, int | None], None] | None = None,
) -> Report:
    """Inspect a model on its pairs and write ``inspect.html`` and ``inspect.json``.

    The pairs are embedded once, part by part on disk. Finished parts and sections are kept under ``out/kept``, by the
    model's weights and the source, and are not made again, but for rows that could not be read; a section that
    fails says why and the others go on.

    Args:
        model: any model that ``tether.load`` gives.
        source: any source that ``data.open_source`` gives.
        out: folder of the report.
        model_name: what the report and its commands call the model.
        source_name: what they call the pairs; the source's own name if None.
        probes: which sections: names in ``PROBES``, mappings with ``name`` and settings, or probes of your own, which
            are named after their class; all of ``PROBES`` if None.
        limit: most rows looked at, spread over the source.
        label: column of the class; None takes ``label`` where rows have it.
        batch_size: rows in one forward.
        workers: threads that decode images.
        strict: stop at the first bad row.
        seed: of every draw.
        on_progress: called with (what is being done, how much is done, of how much or None).

    Raises:
        InputError: an unknown section or setting, or a source or model of which nothing can be seen.
        LockedError: another process writes to ``out``.
    """
    start = time.perf_counter()
    tell = on_progress or (lambda what, done, total: None)
    asked = _asked(probes)
    out, name = Path(out), source_name or source.name
    digest, pairs = encoder_digest(model), source_digest(source, spec=name)
    key = hashlib.blake2b(repr((limit, label, seed, strict)).encode(), digest_size=4).hexdigest()
    kept = out / KEPT / f"{digest[:12]}-{pairs}-{key}"
    options = _options(limit=limit, label=label, strict=strict)
    sections_asked = [] if probes is None else [("--probe", probe) for probe, _, _ in asked if probe in PROBES]
    seeded = ["--seed", str(seed)] if seed else []
    command = ["tether", "inspect", model_name, "--pairs", name, *itertools.chain(*sections_asked), *options, *seeded]
    from tether.evaluate.inspect.page import render

    with locked(out, purpose="tether inspect"):
        subject = gather(
            model,
            source,
            folder=kept,
            limit=limit,
            label=label,
            batch_size=batch_size,
            workers=workers,
            strict=strict,
            seed=seed,
            facts={
                "model_name": model_name,
                "source_name": name,
                "digest": digest,
                "eval_command": shlex.join(["tether", "eval", model_name, name, *options]),
            },
            on_progress=lambda done, total: tell("embedding the pairs", done, total),
        )
        sections = []
        for number, (probe_name, probe, chosen) in enumerate(asked):
            tell(probe.title, number, len(asked))
            sections.append(_section(probe_name, probe, chosen, subject, kept / f"{probe_name}.json"))
        tell("writing the page", len(asked), len(asked))
        report = Report(
            model_name,
            name,
            digest,
            shlex.join(command),
            len(subject.image),
            tuple(sections),
            time.perf_counter() - start,
            out / PAGE,
            out / NUMBERS,
        )
        write_text(report.page, render(report, subject))
        write_json(report.numbers, as_json(report, source=source))
    return report


def _options(*, limit: int, label: str | None, strict: bool) -> list[str]:
    """Those that both ``tether inspect`` and ``tether eval`` know, where they are not the usual ones."""
    found = [] if label is None else ["--label", label]
    found += [] if limit == LIMIT else ["--limit", str(limit)]
    return [*found, "--strict"] if strict else found


def as_json(report: Report, *, source: Source) -> dict[str, Any]:
    """The report as plain values, without images."""
    return {
        "tether": __version__,
        "model": report.model,
        "digest": report.digest,
        "pairs": report.source,
        "version": source.version,
        "images": report.rows,
        "alarms": list(report.alarms),
        "sections": [
            {
                "name": section.name,
                "title": section.title,
                "level": section.level,
                "problem": section.problem,
                "sentence": finding.sentence,
                "figures": [finite(dataclasses.asdict(figure)) for figure in finding.figures],
                "unsaid": finding.unsaid,
                "command": finding.command,
            }
            for section in report.sections
            for finding in [section.finding or Finding("", "unknown")]
        ],
    }


def _asked(
    probes: Sequence[str | Mapping[str, Any] | Probe[Subject]] | None,
) -> list[tuple[str, Probe[Subject], dict[str, Any]]]:
    found = []
    for spec in PROBES.working() if probes is None else probes:
        if isinstance(spec, Probe):
            found.append((PROBES.name_of(type(spec)).lower(), spec, {"settings": repr(spec.__getstate__())}))
            continue
        part, chosen = settings(spec, PROBES, where="probes")
        name = spec if isinstance(spec, str) else str(spec["name"])
        found.append((name, part(**chosen), chosen))
    if not found:
        raise InputError(f"probes: expected at least one of {', '.join(PROBES)}")
    return found


def _section(name: str, probe: Probe[Subject], chosen: Mapping[str, Any], subject: Subject, path: Path) -> Section:
    """The kept finding where it is still that of this code and these settings, else a new one."""
    print_ = _fingerprint(probe, chosen, subject)
    if path.is_file():
        try:
            values = read_json(path)
            if values.get("fingerprint") == print_:
                return Section(name, probe.title, Finding.from_dict(values["finding"]), "", float(values["seconds"]))
        except (InputError, KeyError, TypeError, AttributeError):
            path.unlink()  # of another version, or damaged: found anew
    start = time.perf_counter()
    try:
        finding = probe(subject)
        if getattr(probe, "presupposes_skill", False):
            finding = without_skill(finding, doubt=subject.doubt)
    except (InputError, MissingExtraError) as error:
        return Section(name, probe.title, None, str(error), time.perf_counter() - start)
    except Exception as error:  # one section must not cost the reader the others
        return Section(name, probe.title, None, f"{type(error).__name__}: {error}", time.perf_counter() - start)
    seconds = time.perf_counter() - start
    write_json(path, {"fingerprint": print_, "seconds": seconds, "finding": finding.to_dict()})
    return Section(name, probe.title, finding, "", seconds)


def _fingerprint(probe: Probe[Subject], chosen: Mapping[str, Any], subject: Subject) -> str:
    """Of the probe's source text and settings, of what it looks at, and of what its commands name."""
    module = sys.modules.get(type(probe).__module__)
    try:
        source = inspect.getsource(module if module is not None else type(probe))
    except (OSError, TypeError):  # typed in at a prompt
        source = repr(type(probe))
    told = [__version__, source, subject.content, subject.bad, subject.eval_command, dict(chosen)]
    return hashlib.blake2b(json.dumps(told, default=repr).encode(), digest_size=8).hexdigest()
