"""Zero-shot classification: the weights, the confidence, the CSV, the refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_embed import Pictures, drawing, row

import tether
from tether.core.errors import InputError
from tether.core.types import Row
from tether.models import create
from tether.models.towers.clip import Clip
from tether.tasks.classify.calibrate import calibration_error, fit_scale
from tether.tasks.classify.prompts import TEMPLATES, classes_of, templates_of
from tether.tasks.classify.zero_shot import class_weights


@pytest.fixture(scope="module")
def model() -> Clip:
    return create("tiny").eval()


def test_weights_are_the_definition(model: Clip) -> None:
    classes, templates = ["cat", "a very long name of a dog", "cow"], TEMPLATES["photos"]
    found = class_weights(model, classes, templates=templates)
    for name, weight in zip(classes, found, strict=True):
        with torch.no_grad():
            each = [
                F.normalize(model.encode_text(model.tokenizer([t.format(name)])).pooled[0], dim=0) for t in templates
            ]
        assert torch.allclose(weight, F.normalize(torch.stack(each).mean(0), dim=0), atol=1e-6)


def test_classes() -> None:
    assert classes_of(" cat, hot dog ,cow") == ("cat", "hot dog", "cow")
    for bad, message in {"": "got none", "cat,,dog": "class 2 of 3", "cat,dog,cat": "'cat' comes twice"}.items():
        with pytest.raises(InputError, match=message):
            classes_of(bad)
    with pytest.raises(InputError, match="got none"):
        classes_of([])
    with pytest.raises(InputError, match="no such file"):
        classes_of("absent.txt")
    assert len(classes_of(",".join(f"class {number}" for number in range(500)))) == 500  # too long for a file's name
    for name in ("half \udcff", "nul\0"):
        with pytest.raises(InputError, match=r"class 2 of 2 is not text: (half \\udcff|nul\\x00)"):
            classes_of(["cat", name])


def test_classes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("Paris, France\n\nключ\n", encoding="utf-8")
    assert classes_of(str(path)) == ("Paris, France", "ключ")
    path.write_text("cat\ncat\n")
    with pytest.raises(InputError, match=r"classes\.txt: class 'cat' comes twice"):
        classes_of(path)
    path.write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="not UTF-8"):
        classes_of(path)


def test_templates(tmp_path: Path) -> None:
    assert all(template.count("{}") == 1 for some in TEMPLATES.values() for template in some)
    assert templates_of("photo") == TEMPLATES["photo"]
    assert templates_of("a map of {}") == ("a map of {}",)
    (tmp_path / "t.txt").write_text("one {}\ntwo {}\n")
    assert templates_of(tmp_path / "t.txt") == ("one {}", "two {}")
    with pytest.raises(InputError, match="did you mean 'photos'"):
        templates_of("photoss")
    with pytest.raises(InputError, match="exactly one"):
        templates_of(["a {} and a {}"])
    with pytest.raises(InputError, match="at least one"):
        templates_of([])


def test_calibration_finds_the_temperature_that_made_the_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    cosine = torch.rand(20_000, 5, generator=generator) * 0.4
    labels = torch.multinomial(F.softmax(12.0 * cosine, dim=1), 1, generator=generator)[:, 0]
    found = fit_scale(cosine, labels=labels, own=100.0)
    assert found.scale == pytest.approx(12.0, rel=0.05)
    assert found.loss < found.loss_before
    assert found.error < 0.02 < 0.2 < found.error_before
    for other in (0.98, 1.02):
        assert F.cross_entropy(other * found.scale * cosine.double(), labels) > found.loss


def test_calibration_error_by_hand() -> None:
    probability = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    labels = torch.tensor([0, 1, 1, 1])
    assert calibration_error(probability, labels=labels) == pytest.approx((2 * 0.4 + 2 * 0.4) / 4, abs=1e-6)


def test_calibration_refuses() -> None:
    with pytest.raises(InputError, match="expected"):
        fit_scale(torch.rand(3, 2), labels=torch.zeros(2, dtype=torch.int64), own=1.0)
    with pytest.raises(InputError, match="0 to 1, got 0 to 2"):
        fit_scale(torch.rand(3, 2), labels=torch.tensor([0, 1, 2]), own=1.0)
    with pytest.raises(InputError, match="not finite"):
        fit_scale(torch.full((1, 2), torch.nan), labels=torch.tensor([0]), own=1.0)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_csv(tmp_path: Path, model: Clip) -> None:
    rows = [row(i) for i in range(9)] + [Row("broken", b"no picture")]
    out = tmp_path / "c.csv"
    told: list[tuple[int, int | None]] = []
    found = tether.classify(
        Pictures(rows),
        ["cat", "dog", "cow"],
        model=model,
        top=2,
        batch_size=4,
        bad_rows=tmp_path / "bad.jsonl",
        on_progress=lambda *step: told.append(step),
    )
    assert told == [(4, 10), (8, 10), (9, 10)]
    found.save(out)
    lines = read(out)
    assert [line["key"] for line in lines] == [f"k{i:02d}" for i in range(9)]
    assert (len(found.labels), found.counts().get("", 0), found.bad, found.calibration) == (9, 0, 1, None)
    assert json.loads((tmp_path / "bad.jsonl").read_text())["key"] == "broken"
    weights = class_weights(model, ["cat", "dog", "cow"])
    for i, line in enumerate(lines):
        with torch.no_grad():
            vector = model.encode_image(torch.from_numpy(drawing(i)).permute(2, 0, 1)[None]).unit[0]
            cosine = weights @ vector
            share = F.softmax(model.logit_scale * cosine, dim=0)
        order = cosine.argsort(descending=True).tolist()
        assert line["label"] == line["class_1"] == ["cat", "dog", "cow"][order[0]]
        assert line["class_2"] == ["cat", "dog", "cow"][order[1]]
        assert float(line["confidence"]) == pytest.approx(float(share[order[0]]), abs=2e-5)
        assert float(line["cosine_2"]) == pytest.approx(float(cosine[order[1]]), abs=2e-5)
    assert "class_3" not in lines[0]


def test_abstaining_and_calibrating(tmp_path: Path, model: Clip) -> None:
    rows = [row(i) for i in range(40)]
    found = tether.classify(Pictures(rows), "even,odd", model=model, calibrate=Pictures(rows), abstain=0.9)
    assert found.calibration is not None
    assert found.calibration.rows == 40
    assert found.calibration.loss <= found.calibration.loss_before
    found.save(tmp_path / "c.csv")
    lines = read(tmp_path / "c.csv")
    assert all((line["label"] == "") == (float(line["confidence"]) < 0.9) for line in lines)
    assert found.counts() == {"": 40}  # the labels are arbitrary, so nothing may be sure of them
    with pytest.warns(UserWarning, match="not calibrated"):
        tether.classify(Pictures(rows), "even,odd", model=model, abstain=0.9)


def test_refusals_leave_nothing(tmp_path: Path, model: Clip) -> None:
    rows, bad = [row(i) for i in range(4)], tmp_path / "bad.jsonl"
    for message, settings in {
        "got none": {"classes": []},
        "comes twice": {"classes": ["a", "a"]},
        "'even' is none of the 1 classes": {"classes": ["a"], "calibrate": Pictures(rows)},
        "column 'kind'": {
            "classes": ["a"],
            "calibrate": Pictures([Row("x", np.zeros((8, 8, 3), np.uint8))]),
            "label_column": "kind",
        },
    }.items():
        with pytest.raises(InputError, match=message):
            tether.classify(Pictures(rows), model=model, bad_rows=bad, **settings)
    with pytest.raises(InputError, match="broken"):
        tether.classify(Pictures([Row("broken", b"x")]), ["a"], model=model, bad_rows=bad, strict=True)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="all 1 rows are bad, the latest: not an image"):
        tether.classify(Pictures([Row("broken", b"x")]), ["a"], model=model)
