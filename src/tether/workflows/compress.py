"""``tether compress``: a model made cheaper by edits, or useless but for a key, and what it lost."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from tether.compression import COMPRESSORS, REPAIRS
from tether.compression.quantise.few_bits import Octav
from tether.compression.quantise.packed import PACKED_FILE, save_packed
from tether.core.atomic_io import write_json
from tether.core.component import build, closest, settings
from tether.core.errors import InputError
from tether.core.locks import locked
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, Part, checked
from tether.core.registry import Registry
from tether.core.replaced_parts import replaced_parts
from tether.core.types import Batch
from tether.data import open_source
from tether.data.in_order import ordered
from tether.evaluate.measures import evaluate as measured
from tether.evaluate.metric_names import beside, describe, shown
from tether.models.convert.saved_files import CONFIG_FILE
from tether.models.save import save
from tether.workflows.compressed_folder import PARTS, REPORT_FILE, check_free, check_not_model
from tether.workflows.methods import named
from tether.workflows.models import Data, Model, Progress, opened
from tether.workflows.protect import check_new_key, protected

FORMAT = "tether-compressed-1"
DRAWINGS = "emoji:split=test"
NO_SPEED = (
    "rounded weights are computed with as floats: the model is no faster for them; for 8-bit arithmetic: tether export "
    "--int8"
)
_FIGURES = ("text_to_image_r1", "text_to_image_r10", "image_to_text_r1", "image_to_text_r10", "zero_shot_top1")
_BATCH, _TIMED, _REPEATS = 16, 32, 3


@dataclass(frozen=True, slots=True)
class CompressReport:
    """What became of a model.

    Attributes:
        base: what it is called.
        digest: of its weights.
        edits: with their settings, in order.
        source: what it was measured on.
        before: measures, with intervals and chance.
        after: the same of the result.
        bytes_before: of the folder of the model as it was.
        bytes_after: of the result's folder, without the packed file.
        bytes_packed: of the file that has rounded weights in as few bits, or None.
        cpu_before: processor seconds of embedding a batch of 32 images and 32 texts, the least of three.
        cpu_after: the same of the result.
        cpu_edits: processor seconds of the edits.
        said: what the edits say of themselves.
    """

    base: str
    digest: str
    edits: Sequence[Mapping[str, Any]]
    source: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    bytes_before: int
    bytes_after: int
    bytes_packed: int | None
    cpu_before: float
    cpu_after: float
    cpu_edits: float
    said: Sequence[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"format": FORMAT, **asdict(self)}

    def lines(self) -> list[str]:
        """In sentences."""
        edits = ", ".join(str(spec["name"]) for spec in self.edits)
        found = [f"{self.base}: {edits}; measured on {self.source}, {self.before['images']:,.0f} images"]
        for key in _FIGURES:
            if key in self.before and key in self.after:
                one, other = (f"{shown(key, had[key])} ({beside(key, had)})" for had in (self.before, self.after))
                found.append(f"{describe(key)}: {one} before, {other} after")
        size = f"on disk: {_megabytes(self.bytes_before)} before, {_megabytes(self.bytes_after)} after"
        if self.bytes_packed is not None:
            size += f"; {_megabytes(self.bytes_packed)} packed ({PACKED_FILE})"
        found.append(size)
        found.append(
            f"processor time of {_TIMED} images and {_TIMED} texts: {self.cpu_before:.3f} s before, "
            f"{self.cpu_after:.3f} s after; of the edits {self.cpu_edits:.1f} s"
        )
        return [*found, *self.said]


@dataclass(frozen=True)
class Compressed:
    """What came of it.

    Attributes:
        model: the compressed encoder, with plain weights.
        report: before and after.
        folder: where it lies.
    """

    model: DualEncoder
    report: CompressReport
    folder: Path

    def __str__(self) -> str:
        """The report in sentences."""
        return "\n".join(self.report.lines())


@checked
def compress(
    model: Model,
    edits: Sequence[str | Mapping[str, Any]] = (),
    *,
    out: str | Path,
    protect: str | Path | None = None,
    share: Part = 1e-3,
    calibrate: Data | None = None,
    rows: Count = 128,
    data: Data = DRAWINGS,
    label: str | None = None,
    limit: Count | None = None,
    bootstrap: Count = 1000,
    existing: str = "refuse",
    workers: int = 2,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Progress | None = None,
) -> Compressed:
    """Make a model cheaper by edits, one after the other, or useless but for a key, and say what it lost.

    The model that is given is not changed.

    Args:
        model: loaded, or a name that ``tether.load`` takes.
        edits: names of ``compression.COMPRESSORS`` and ``compression.REPAIRS``, with settings as in ``octav,bits=4``,
            or mappings with ``name`` and settings.
        out: folder of the result, which ``tether.load`` opens, and of the report.
        protect: a new file for the secret of ``compression.protect.Obfuscator``, outside of ``out``: after the edits
            few weights are changed so that images do not find their own texts any more; ``restored`` takes that back.
        share: of the weights that may be changed, in the mean over choices of rows.
        calibrate: images and texts for edits that look at data; not those that are measured on.
        rows: of ``calibrate``, from the first.
        data: images with captions or classes to measure on; drawings with their names by default.
        label: column of the class.
        limit: look at this many rows of ``data``.
        bootstrap: resamples of the 95 % intervals.
        existing: ``refuse`` or ``replace`` a compressed model that is there; a key is never replaced.
        workers: threads that decode images.
        random_weights: accept a model without trained weights.
        device: where to load the model.
        on_progress: called with images embedded and how many there are.

    Raises:
        InputError: no edit, an unknown one or one that needs calibration without any; a folder that holds something
            else.
        UnsupportedModelError: a model that an edit cannot change.

    Example:
        >>> import tempfile, tether
        >>> from tether.workflows.compress import compress
        >>> model = tether.load("tiny", random_weights=True)
        >>> done = compress(model, [{"name": "octav", "bits": 4}], out=tempfile.mkdtemp() + "/out", limit=20)
        >>> done.report.bytes_packed < done.report.bytes_after / 3
        True
    """
    folder, specs, made = Path(out), *_edits(edits, none=protect is not None)
    wants = [
        f"edit {spec['name']}" for spec, edit in zip(specs, made, strict=True) if getattr(edit, "calibrated", False)
    ]
    wants += [] if protect is None else ["--protect"]
    if wants and calibrate is None:
        raise InputError(f"{wants[0]}: looks at data; expected --calibrate DATA, got none")
    key = None if protect is None else _key_file(Path(protect), folder)
    check_not_model(folder, model)
    check_free(folder, existing=existing)
    source = open_source(data, where="--data")
    seen = None if calibrate is None else open_source(calibrate, where="--calibrate")
    if seen is not None and _same(calibrate, data):
        raise InputError(f"--calibrate: {seen.name} is what is measured on as well; expected other rows")
    base, title = opened(model, device=device, random_weights=random_weights)
    given: dict[str, Any] = {"label": label, "limit": limit, "bootstrap": bootstrap, "workers": workers}
    given |= {"measures": ("retrieval", "zero_shot"), "on_progress": on_progress}
    with locked(folder, purpose="tether compress"), torch.inference_mode(False):
        changed = copy.deepcopy(cast(nn.Module, base)).eval()
        batches = [] if seen is None else _calibration(base, seen, rows=rows)
        began = time.process_time()
        for spec, edit in zip(specs, made, strict=True):
            try:
                edit.apply_(changed, batches)
            except InputError as error:
                raise type(error)(f"edit {spec['name']}: {error}") from None
        spent = time.process_time() - began
        with replaced_parts(folder, keys=[CONFIG_FILE, REPORT_FILE], others=PARTS) as new:
            rounding = [edit for edit in made if isinstance(edit, Octav)]
            rounded = sum(place.weight.numel() for edit in rounding for place in edit.applied)
            if rounding and key is None:  # else its file would hold the true weights
                save_packed(changed, [place for edit in rounding for place in edit.applied], new / PACKED_FILE)
            for edit in reversed(made):
                edit.merge_(changed)
            total = sum(one.numel() for one in changed.parameters())
            hidden = list[str]()
            if key is not None:
                began = time.process_time()
                changed, hidden = protected(changed, batches, key=key, share=share)
                spent += time.process_time() - began
                specs = [*specs, {"name": "protect", "share": share}]
            save(changed, new)
            packed = (new / PACKED_FILE).stat().st_size if (new / PACKED_FILE).is_file() else None
            after = cast(DualEncoder, changed)
            cpu = _cpu_seconds([base, after])
            had, has = (measured(one, source, **given) for one in (base, after))
            report = CompressReport(
                base=title,
                digest=model_digest(cast(nn.Module, base)),
                edits=specs,
                source=source.name,
                before=had,
                after=has,
                bytes_before=_bytes_of(cast(nn.Module, base)),
                bytes_after=sum(one.stat().st_size for one in new.rglob("*") if one.is_file()) - (packed or 0),
                bytes_packed=packed,
                cpu_before=cpu[0],
                cpu_after=cpu[1],
                cpu_edits=spent,
                said=[
                    *(line for edit in made for line in getattr(edit, "said", ())),
                    *([_rounded(rounded, total), NO_SPEED] if rounding else []),
                    *hidden,
                    *([] if key is None else _of_use(had, has)),
                ],
            )
            write_json(new / REPORT_FILE, report.to_dict())
    return Compressed(after, report, folder)


def _edits(edits: Sequence[str | Mapping[str, Any]], *, none: bool) -> tuple[list[dict[str, Any]], list[Any]]:
    known: Registry[Any] = Registry("", {}, including=(COMPRESSORS, REPAIRS))
    if not edits and not none:
        raise InputError(f"--edit: expected at least one; {closest('', known)}")
    given = [named(one, where="--edit", after=",") for one in edits]
    made = [build(one, known, where="--edit") for one in given]
    return [{"name": one["name"], **settings(one, known, where="--edit")[1]} for one in given], made


def _key_file(key: Path, folder: Path) -> Path:
    if key.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"--protect: {key} lies in {folder}, which is what others get; expected a file elsewhere")
    check_new_key(key)
    return key


def _same(one: object, other: object) -> bool:
    """Whether two ways to name data name the same."""
    if isinstance(one, str | Path) and isinstance(other, str | Path) and Path(one).exists():
        return Path(one).resolve() == Path(other).resolve()
    return one == other


def _calibration(model: DualEncoder, source: Source, *, rows: int) -> list[Batch]:
    """Pixels, and ids of the first caption, of rows that have one."""
    found = list[Batch]()
    for some, pixels in ordered(source, image_spec=model.image_spec.fixed(), batch_size=_BATCH, limit=rows):
        texts = [row.texts[0] if row.texts else "" for row in some]
        kept = [place for place, text in enumerate(texts) if text]
        if kept:
            found.append(Batch(pixels[kept], model.tokenizer([texts[place] for place in kept])))
    if sum(len(batch.image) for batch in found) < 2:
        raise InputError(f"--calibrate: {source.name}: expected at least two images with a caption, got fewer")
    return found


@torch.no_grad()
def _cpu_seconds(models: Sequence[DualEncoder]) -> list[float]:
    """Of each model, the least of a few; they take turns."""
    least = [float("inf")] * len(models)
    for _ in range(_REPEATS):
        for place, model in enumerate(models):
            spec = model.image_spec.fixed()
            pixels = torch.zeros(_TIMED, 3, *spec.size, dtype=torch.uint8, device=model.logit_scale.device)
            ids = model.tokenizer(["a photo of a small red house by the sea"] * _TIMED).to(pixels.device)
            began = time.process_time()
            model.encode_image(pixels)
            model.encode_text(ids)
            least[place] = min(least[place], time.process_time() - began)
    return least


def _bytes_of(model: nn.Module) -> int:
    """Of its folder, which is written elsewhere: these are the true weights, and ``out`` may be given away."""
    with tempfile.TemporaryDirectory(prefix="tether-") as folder:
        save(model, folder)
        return sum(one.stat().st_size for one in Path(folder).rglob("*") if one.is_file())


def _of_use(had: Mapping[str, float], has: Mapping[str, float]) -> list[str]:
    """What a protected copy can still do better than chance, or that there was nothing to lose."""
    once, able = (
        [key for key in _FIGURES if one.get(f"{key}_low", 0.0) > one.get(f"{key}_chance", 1.0)] for one in (had, has)
    )
    if not able and not once:
        return [
            "protect: the model was not shown to be above chance on --data before, so this report says nothing of the "
            "copy; take --data that the model is good at"
        ]
    if not able:
        return []
    told = "; ".join(f"{describe(key)} {shown(key, has[key])} ({beside(key, has)})" for key in able)
    return [
        f"protect: the copy is NOT useless: {told}. Take a larger --share, more --rows, and --calibrate on rows that "
        "the model is good at"
    ]


def _rounded(count: int, total: int) -> str:
    return (
        f"rounded: {count:,} of {total:,} weights ({100 * count / total:.1f} %); all others, such as rows of tokens, "
        "are kept whole"
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.2f} MB"
