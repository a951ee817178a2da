"""``tether export``: a model as a folder that another library opens, or that runs without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, checked
from tether.data import open_source
from tether.data.in_order import ordered
from tether.data.sources.advice import caption_advice
from tether.evaluate.embeddings import Embedded, embed_source
from tether.evaluate.retrieval import ranks
from tether.models.encoders.onnx.encoder import ExportedEncoder
from tether.models.encoders.onnx.folder import export_graphs
from tether.models.encoders.onnx.graphs import Side
from tether.models.encoders.onnx.parity import apart
from tether.models.export import export as export_folder
from tether.workflows.models import Data, Progress, with_total

Format = Literal["open_clip", "transformers", "tether", "onnx", "openvino"]
Points = Annotated[float, Ge(0), Le(100)]
LEAST_CALIBRATION = 16
"""Images, and texts, below which ranges of numbers are chance."""
_BATCH = 16
_RECALLS = tuple(f"{way}_r{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10))


@checked
def export(
    model: nn.Module,
    folder: str | Path,
    *,
    format: Format = "open_clip",
    int8: bool = False,
    data: Data | None = None,
    allow: Points = 2.0,
    calibration: Count = 128,
    limit: Count | None = None,
    workers: int = 2,
    on_progress: Progress | None = None,
) -> Path:
    """Write a model for use elsewhere.

    ``open_clip``, ``transformers`` and ``tether`` folders hold weights, see ``models.export.export``. ``onnx`` and
    ``openvino`` ones hold both towers as graphs that run without torch, with a tokenizer, a script, and a report of
    how near they are to the model; ``tether.load`` opens them too. Such a folder appears whole or not at all.

    Args:
        model: what ``tether.load`` or ``create`` gave; for graphs also one around it, such as ``NarrowEncoder``.
        folder: where to; absent, or empty.
        format: who shall open it.
        int8: graphs whose products are of 8-bit numbers, their ranges measured on ``data``.
        data: pairs, as ``data.open_source`` takes them, to compare embeddings and recall on before and after.
        allow: points of recall at 10, of either way, that an int8 folder may lose.
        calibration: rows of ``data``, from the first, that ranges are measured on; where twice as many follow, recall
            is measured on those alone.
        limit: look at this many rows of ``data``.
        workers: threads that decode images.
        on_progress: called with images embedded and, where the source knows, images in all.

    Returns:
        The folder.

    Raises:
        InputError: the format cannot hold this model, a tower cannot be exported, or int8 loses more than ``allow``;
            nothing is written then.
        MissingExtraError: the extra ``onnx`` or ``openvino`` is not installed.

    Example:
        >>> import tempfile, tether
        >>> model = tether.load("tiny", random_weights=True)
        >>> folder = tether.export(model, tempfile.mkdtemp() + "/out", format="transformers")
        >>> (folder / "config.json").is_file()
        True
    """
    if format not in ("onnx", "openvino"):
        if int8 or data is not None:
            raise InputError(f"int8 and data are for the formats onnx and openvino, got {format}")
        return export_folder(model, folder, format=format)
    if int8 and data is None:
        raise InputError("int8: needs data to measure ranges and recall on (--data SOURCE), got none")
    encoder = cast(DualEncoder, model)
    if data is None:
        return export_graphs(encoder, folder, runtime=format)
    source = open_source(data, where="DATA")
    rows = _Rows(encoder, source, limit=limit, workers=workers, on_progress=on_progress)
    batches = _calibration(encoder, source, rows=calibration) if int8 else None
    skipped = calibration if int8 else 0
    return export_graphs(
        encoder,
        folder,
        runtime=format,
        calibration=batches,
        measure=lambda exported: rows.compared(exported, skipped=skipped, allow=allow if int8 else None),
    )


class _Rows:
    """Real rows, embedded by the model and by what was made of it."""

    def __init__(self, model: DualEncoder, source: Source, **given: Any) -> None:
        self.model, self.source = model, source
        on_progress = with_total(given.pop("on_progress"), source, limit=given["limit"])
        self.given: dict[str, Any] = {**given, "on_progress": on_progress, "batch_size": 64}

    def compared(self, exported: ExportedEncoder, *, skipped: int, allow: float | None) -> dict[str, Any]:
        """What ``parity.json`` says of them; a fall of recall past ``allow`` is an InputError with the figures."""
        before = self._seen(self.model)
        after = self._seen(cast(DualEncoder, exported))
        points = before.geometry.points
        found = {
            "image": apart([(points(before.image), points(after.image))]),
            "text": apart([(points(before.text), points(after.text))]),
        }
        first = skipped if len(before.keys) >= 3 * skipped else 0
        recall = {"before": _recall(before, first), "after": _recall(after, first)}
        lost = max(100 * (recall["before"][name] - recall["after"][name]) for name in _RECALLS if name.endswith("r10"))
        if allow is not None and lost > allow:
            said = ", ".join(
                f"{name} {100 * recall['before'][name]:.1f} before and {100 * recall['after'][name]:.1f} after"
                for name in _RECALLS
                if name.endswith("r10")
            )
            raise InputError(
                f"int8: recall at 10 falls by {lost:.1f} points on {self.source.name}, allowed are {allow:g} "
                f"(--allow): {said}; nothing was written; float32 keeps it"
            )
        rows = len(before.keys) - first
        about = {"rows": rows, "calibrated_on": skipped, "measured_on_those_too": bool(skipped) and not first}
        return {"data": {"source": self.source.name, **about, **found}, "recall": recall}

    def _seen(self, model: DualEncoder) -> Embedded:
        seen = embed_source(model, self.source, **self.given)
        if not seen.captions:
            raise InputError(
                f"{self.source.name}: rows have no captions to measure by{caption_advice(self.source.name)}"
            )
        return seen


def _recall(seen: Embedded, first: int) -> dict[str, float]:
    """Of the rows from ``first`` on, with their texts."""
    own = seen.text_to_image >= first
    image, text = seen.geometry.points(seen.image[first:]), seen.geometry.points(seen.text[own])
    owner = seen.text_to_image[own] - first
    found = ranks(image, text, text_to_image=owner, similarity=seen.geometry.similarity).summary()
    return {name: found[name] for name in _RECALLS}


def _calibration(model: DualEncoder, source: Source, *, rows: int) -> Mapping[Side, Sequence[Tensor]]:
    """Batches of normalised pixels and of ids from the first rows with a caption."""
    spec, images, texts = model.image_spec.fixed(), list[Tensor](), list[str]()
    for some, pixels in ordered(source, image_spec=spec, batch_size=_BATCH, limit=rows):
        images.append(spec.normalise(pixels))
        texts += [text for row in some for text in islice(row.texts, 2)]
    seen = sum(map(len, images))
    if min(seen, len(texts)) < LEAST_CALIBRATION:
        raise InputError(
            f"{source.name}: {seen} images and {len(texts)} captions; int8 measures its ranges on at least "
            f"{LEAST_CALIBRATION} of both"
        )
    ids = model.tokenizer(texts)
    return {"image": images, "text": list(torch.split(ids, _BATCH))}
