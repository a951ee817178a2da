"""A folder that FiftyOne opens as a data set: ``metadata.json``, ``samples.json`` and images in ``data/``.

The layout is that of FiftyOne's own exporter of the type ``FiftyOneDataset`` (voxel51/fiftyone,
``fiftyone/utils/data/exporters.py``): documents of its database as MongoDB's extended JSON. Fields of samples are
declared in ``sample_fields``. It is written without FiftyOne, and opened by::

    fiftyone.Dataset.from_dir("DIR", dataset_type=fiftyone.types.FiftyOneDataset)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tether.core.atomic_io import atomic_folder, write_json
from tether.core.errors import InputError
from tether.data.review import Suspect

VERSION = "1.0.0"
"""Of FiftyOne, whose format this is; later ones migrate what they open."""
_FIELDS = "fiftyone.core.fields"
_LABELS = "fiftyone.core.labels"


def write_dataset(
    folder: Path, suspects: Sequence[Suspect], *, images: Mapping[str, bytes], name: str, classes: Sequence[str] = ()
) -> Path:
    """Write one sample for each image that is suspect, with the kinds as tags; the folder appears when all is written.

    A sample has ``key``, ``ground_truth`` (its label), ``suggested``, ``caption`` and ``reason`` (of its first suspect
    of each kind), and ``score`` (of the first).

    Args:
        folder: to write; one that is there is replaced.
        suspects: what to look at.
        images: JPEG by key.
        name: of the data set.
        classes: names that a label may have.

    Raises:
        InputError: no suspect has an image.
    """
    by_key: dict[str, list[Suspect]] = {}
    for one in suspects:
        if one.key in images:
            by_key.setdefault(one.key, []).append(one)
    if not by_key:
        raise InputError("fiftyone: expected at least one suspect with an image")
    with atomic_folder(folder, replace=True) as new:
        (new / "data").mkdir()
        samples = []
        for number, (key, about) in enumerate(by_key.items()):
            path = f"data/{number:06d}.jpg"
            (new / path).write_bytes(images[key])
            samples.append(_sample(key, about, path=path))
        write_json(new / "metadata.json", _metadata(name, classes))
        write_json(new / "samples.json", {"samples": samples})
    return folder


def _id(text: str) -> dict[str, str]:
    """An object id of 24 hexadecimal digits."""
    return {"$oid": hashlib.blake2b(text.encode(errors="backslashreplace"), digest_size=12).hexdigest()}


def _sample(key: str, about: Sequence[Suspect], *, path: str) -> dict[str, Any]:
    first = {one.kind: one for one in reversed(about)}
    label = first.get("label")
    caption = first.get("caption")

    def classified(text: str, field: str) -> dict[str, Any] | None:
        if not text:
            return None
        return {"_id": _id(f"{key}\n{field}"), "_cls": "Classification", "tags": [], "label": text}

    return {
        "_id": _id(key),
        "_media_type": "image",
        "filepath": path,
        "tags": sorted(first),
        "key": key,
        "ground_truth": classified(label.given if label else "", "ground_truth"),
        "suggested": classified(label.suggested if label else "", "suggested"),
        "caption": caption.given if caption else None,
        "reason": "\n".join(one.reason for one in first.values()),
        "score": float(about[0].score),
    }


def _metadata(name: str, classes: Sequence[str]) -> dict[str, Any]:
    plain = {
        "id": ("ObjectIdField", "_id"),
        "filepath": ("StringField", "filepath"),
        "key": ("StringField", "key"),
        "caption": ("StringField", "caption"),
        "reason": ("StringField", "reason"),
        "score": ("FloatField", "score"),
    }
    fields = [_field(field, kind, stored=stored) for field, (kind, stored) in plain.items()]
    fields.insert(2, _field("tags", "ListField", subfield=f"{_FIELDS}.StringField"))
    inner = [
        _field("id", "ObjectIdField", stored="_id"),
        _field("tags", "ListField", subfield=f"{_FIELDS}.StringField"),
        _field("label", "StringField"),
        _field("confidence", "FloatField"),
        _field("logits", "VectorField"),
    ]
    fields += [
        _field(field, "EmbeddedDocumentField", document=f"{_LABELS}.Classification", fields=inner)
        for field in ("ground_truth", "suggested")
    ]
    return {
        "_id": _id(f"dataset {name}"),
        "name": name,
        "version": VERSION,
        "media_type": "image",
        "persistent": False,
        "tags": [],
        "info": {},
        "classes": {},
        "default_classes": list(classes),
        "mask_targets": {},
        "default_mask_targets": {},
        "skeletons": {},
        "sample_fields": fields,
        "frame_fields": [],
        "saved_views": [],
        "annotation_runs": {},
        "brain_methods": {},
        "evaluations": {},
        "runs": {},
        "workspaces": [],
    }


def _field(
    name: str,
    kind: str,
    *,
    stored: str = "",
    subfield: str | None = None,
    document: str | None = None,
    fields: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    return {
        "name": name,
        "ftype": f"{_FIELDS}.{kind}",
        "embedded_doc_type": document,
        "subfield": subfield,
        "fields": list(fields),
        "db_field": stored or name,
        "description": None,
        "info": None,
    }
