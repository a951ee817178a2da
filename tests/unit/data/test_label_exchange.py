"""Label Studio both ways, and FiftyOne's layout: what their documentation asks of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tether.core.errors import InputError
from tether.data.decisions import Decision, read_decisions
from tether.data.exchange.fiftyone import write_dataset
from tether.data.exchange.label_studio import write_tasks
from tether.data.exchange.suspect import Suspect

SUSPECTS = [
    Suspect("label", "a.png", "dog", 'cat & "<mouse>"', 0.9, "Its 10 nearest images are all cats.", 0, (1, 2)),
    Suspect("label", "b.png", "dog", "", 0.5, "In doubt.", 1),
    Suspect("caption", "a.png", "a dog", "", 1.5, "Other captions fit better.", 0),
    Suspect("outlier", "c.png", "", "", 9.0, "Unlike all others.", 2),
]
CLASSES = ['cat & "<mouse>"', "dog"]
URI = "data:image/jpeg;base64,AAAA"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tasks(tmp_path, SUSPECTS, images=dict.fromkeys(("a.png", "b.png", "c.png"), URI), classes=CLASSES)
    return tmp_path


def tasks(folder: Path, kind: str) -> list[dict[str, Any]]:
    return json.loads((folder / f"{kind}.json").read_text())


def test_predictions_name_controls_and_values_of_the_interface(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{kind}.{ending}" for kind in ("label", "caption", "outlier") for ending in ("json", "xml")
    )
    root = ElementTree.parse(folder / "label.xml").getroot()
    controls = {one.get("name"): one for one in root.iter("Choices")}
    assert [one.get("value") for one in controls["label"]] == CLASSES
    first, second = tasks(folder, "label")
    shown = {one.get("value", "").removeprefix("$") for one in root if one.get("value", "").startswith("$")}
    assert shown <= set(first["data"])
    [result] = first["predictions"][0]["result"]
    assert controls[result["from_name"]].get("toName") == result["to_name"]
    assert result["type"] == "choices"
    assert set(result["value"]["choices"]) <= set(CLASSES)
    assert second["predictions"][0]["result"] == []
    assert [one["predictions"][0]["score"] for one in (first, second)] == [1.0, 0.5]


def test_tasks_of_an_earlier_audit_go(folder: Path) -> None:
    write_tasks(folder, SUSPECTS[:1], images={}, classes=CLASSES)
    assert sorted(path.name for path in folder.iterdir()) == ["label.json", "label.xml"]


def annotated(task: dict[str, Any], *results: tuple[str, str, object], **more: object) -> dict[str, Any]:
    key = {"choices": "choices", "textarea": "text"}
    result = [
        {"id": "x", "from_name": name, "to_name": "image", "type": kind, "value": {key[kind]: value}}
        for name, kind, value in results
    ]
    return {**task, "annotations": [{"id": 1, "completed_by": 1, "was_cancelled": False, "result": result, **more}]}


def test_an_export_is_read_back(folder: Path) -> None:
    first, second = tasks(folder, "label")
    caption, outlier = *tasks(folder, "caption"), *tasks(folder, "outlier")
    export = [
        annotated(first, ("label", "choices", [CLASSES[0]])),
        annotated(second, ("label", "choices", ["dog"])),
        annotated(caption, ("caption", "textarea", ["a cat"])),
        annotated(outlier, ("decision", "choices", ["drop"])),
        annotated(
            first | {"data": first["data"] | {"key": "z"}}, ("decision", "choices", ["drop"]), was_cancelled=True
        ),
        {**second, "annotations": []},
    ]
    (folder / "export.json").write_text(json.dumps(export))
    assert read_decisions(folder / "export.json") == (
        Decision("a.png", "label", "relabel", "dog", CLASSES[0]),
        Decision("b.png", "label", "keep", "dog"),
        Decision("a.png", "caption", "relabel", "a dog", "a cat"),
        Decision("c.png", "outlier", "drop"),
    )


@pytest.mark.parametrize(
    ("export", "message"),
    [
        ({"tasks": []}, "expected a list of tasks"),
        ([{"image": "x.png", "choice": "cat"}], "task 1: no 'data'; expected the format JSON of Label Studio"),
        (
            [{"id": 12, "data": {"text": "hi", "meta": 3}, "annotations": []}],
            r"task 12: its data has no 'key' \(it has: meta, text\); .* the export of another project",
        ),
        ([{"id": 3, "data": {"key": "a", "kind": "label", "given": "x"}, "annotations": 5}], "task 3: annotations"),
        (
            [annotated({"id": 4, "data": {"key": "a", "kind": "label", "given": "x"}}, ("tag", "choices", ["a"]))],
            "task 4: unknown control 'tag'; expected decision, label or caption",
        ),
        (
            [annotated({"id": 5, "data": {"key": "a", "kind": "label", "given": "x"}}, ("label", "choices", []))],
            "task 5: label: expected choices, a list of text",
        ),
        (
            [annotated({"id": 6, "data": {"key": "a", "kind": "mood", "given": "x"}}, ("label", "choices", ["b"]))],
            "task 6: kind: expected label, caption, copy, outlier",
        ),
        (
            [
                annotated(
                    {"id": 7, "data": {"key": "a", "kind": "label", "given": "x"}}, ("decision", "choices", ["so"])
                )
            ],
            "task 7: decision: expected keep or drop, got 'so'",
        ),
    ],
)
def test_exports_of_another_project(tmp_path: Path, export: object, message: str) -> None:
    (tmp_path / "export.json").write_text(json.dumps(export))
    with pytest.raises(InputError, match=message):
        read_decisions(tmp_path / "export.json")


def test_the_sdk_reads_the_interface_and_the_tasks_and_its_annotations_are_read(folder: Path) -> None:
    sdk = pytest.importorskip("label_studio_sdk.label_interface", reason="Label Studio's SDK lowers numpy's version")
    for kind in ("label", "caption", "outlier"):
        read = sdk.LabelInterface((folder / f"{kind}.xml").read_text())
        read.validate()
        export, said = [], []
        for task in tasks(folder, kind):
            assert read.validate_task({"data": task["data"]})
            assert all(read.validate_prediction(one) for one in task["predictions"])
            annotation = read.generate_sample_annotation()  # every control that it knows, with a value that it allows
            assert read.validate_annotation(annotation)
            export.append({**task, "annotations": [{**annotation, "was_cancelled": False}]})
            values = {one["from_name"]: one["value"] for one in annotation["result"]}
            said.append((task["data"]["key"], kind, values["decision"]["choices"][-1]))
        (folder / "export.json").write_text(json.dumps(export))
        assert [(one.key, one.kind, one.choice) for one in read_decisions(folder / "export.json")] == said


def test_fiftyones_folder(tmp_path: Path) -> None:
    images = {"a.png": b"\xff\xd8a", "c.png": b"\xff\xd8c"}
    write_dataset(tmp_path / "set", SUSPECTS, images=images, name="audit", classes=CLASSES)
    metadata, samples = (
        json.loads((tmp_path / "set" / name).read_text()) for name in ("metadata.json", "samples.json")
    )
    assert metadata["media_type"] == "image"
    assert metadata["default_classes"] == CLASSES
    declared = {field["db_field"]: field for field in metadata["sample_fields"]}
    assert len(samples["samples"]) == 2  # b.png has no image
    for sample, key in zip(samples["samples"], ("a.png", "c.png"), strict=True):
        assert set(sample) - {"_media_type"} == set(declared)
        assert (tmp_path / "set" / sample["filepath"]).read_bytes() == images[key]
        assert len(bytes.fromhex(sample["_id"]["$oid"])) == 12
    first = samples["samples"][0]
    assert first["tags"] == ["caption", "label"]
    assert first["ground_truth"]["_cls"] == "Classification"
    assert first["ground_truth"]["label"] == "dog"
    assert first["suggested"]["label"] == CLASSES[0]
    inner = {field["db_field"] for field in declared["ground_truth"]["fields"]}
    assert set(first["ground_truth"]) - {"_cls"} <= inner
    with pytest.raises(InputError, match="at least one suspect with an image"):
        write_dataset(tmp_path / "none", SUSPECTS, images={}, name="audit")
    assert not (tmp_path / "none").exists()
