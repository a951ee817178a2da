"""The report: whole, light, self-contained, and honest about what is missing."""

import json
import math
import os
import re

import numpy as np
import pytest
import torch

from tether.cli.report import command
from tether.core.errors import InputError
from tether.core.types import Row
from tether.evaluate import report
from tether.evaluate.embeddings import Embedded
from tether.evaluate.html import projection
from tether.evaluate.html.curves import Line, Marks, chart, running_mean, thin
from tether.evaluate.html.sprite import sprite
from tether.evaluate.html.text import duration
from tether.evaluate.report import galleries
from tether.evaluate.report.confusion import confusion
from tether.evaluate.report.run_charts import of_run
from tether.evaluate.retrieval import ranks

from test_evaluate_suite import ColourModel, Rows  # isort: skip - a neighbour


def record(step, **changes):
    return {
        "step": step,
        "loss": 5.0 / (step + 1),
        "grad_norm": 1.0 + step % 3,
        "grad_threshold": 2.5,
        "grad_scale": 1.0,
        "skipped": False,
        "lr": 1e-3,
        "logit_scale": 14.0 + step,
        "images_per_second": 100.0,
        "seconds": float(step),
    } | changes


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "first-run"
    folder.mkdir()
    lines = [record(step) for step in range(40)]
    lines[7] |= {"grad_norm": 9.0, "grad_scale": 0.3}
    lines[9] |= {"grad_norm": None, "skipped": True}
    lines += [{"step": 39, "eval": {"text_to_image_r10": 0.7, "image_to_text_r10": 0.6}, "seconds": 41.0}]
    lines.insert(20, {"step": 19, "eval": {"text_to_image_r10": 0.4, "image_to_text_r10": 0.3}, "seconds": 20.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.yaml").write_text("size: tiny\nbatch_size: 8\naccumulate: 1\nnote: <script>alert(1)</script>\n")
    (folder / "summary.json").write_text(json.dumps({"steps": 40, "skipped": 1, "seconds": 41.0}))
    (folder / "environment.json").write_text(json.dumps({"python": "3.11", "threads": 2, "libraries": {"torch": "2"}}))
    return folder


@pytest.fixture
def source():
    rng = np.random.default_rng(0)
    rows = []
    for number in range(60):
        name = ("red", "green", "blue")[number % 3]
        pixels = rng.integers(0, 60, (16, 16, 3), dtype=np.uint8)
        pixels[..., number % 3] = 200 if number % 7 else 0
        rows.append(Row(f"row {number}", pixels, (f"a {name} thing & more <{number}>",), {"label": name}))
    return Rows(rows)


def test_page_is_whole_light_and_loads_nothing(run, source):
    path = report.write(run, model=ColourModel(), source=source, bootstrap=20)
    page = path.read_text(encoding="utf-8")
    assert path == run / "report.html"
    assert path.stat().st_size < 3_000_000
    for heading in (
        "How training went",
        "Text to images",
        "Images to text",
        "Zero-shot by label",
        "Where images lie",
    ):
        assert heading in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*""", page)
    assert not re.findall(r"https?://", page)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "1 of 40 steps were clipped, 1 skipped" in page


def test_going_back_and_signs_are_told(run):
    lines = [record(step, logit_scale=min(100.0, 14.0 + 2 * step)) for step in range(100)]
    told = {"to": 30, "first_bad": 33, "at": 35, "why": "loss <b>5</b>", "skipped_batches": 1200, "losses": [5.0]}
    lines.insert(30, {"step": 29, "rollback": told})
    lines.insert(60, {"step": 58, "signs": {"scale": "said then"}})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = report.write(run).read_text(encoding="utf-8")
    assert (
        "After step 36 the run went back to step 30: loss &lt;b&gt;5&lt;/b&gt;; 1,200 batches were passed over." in page
    )
    assert "The scale of the logits stands at its bound, 100; likely too many passes over few pairs" in page
    assert "times gone back" in page
    assert "undone step (1)" in page


def test_same_run_gives_the_same_page(run, source):
    first = report.write(run, model=ColourModel(), source=source).read_bytes()
    assert report.write(run, model=ColourModel(), source=source).read_bytes() == first


def test_unfinished_run_has_curves_and_says_what_is_missing(run):
    (run / "summary.json").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # cut off by a kill
    page = report.write(run).read_text(encoding="utf-8")
    assert "This run has not finished: 40 steps are in its log" in page
    assert "no final model yet" in page
    assert "How training went" in page
    assert "Text to images" not in page


def test_a_failed_run_says_since_when_why_and_what_to_do(capsys, run, source, monkeypatch):
    (run / "summary.json").unlink()
    with (run / "config.yaml").open("a") as file:
        file.write("steps: 100\n")
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(record(step, skipped=True)) + "\n" for step in (40, 41))
    os.utime(run / "metrics.jsonl", (1e9, 1e9))
    said = (
        "This run has not finished: 42 of 100 steps are in its log; that was last written to on 2001-09-09 at 01:46 "
        "UTC. The gradients of its last 2 steps were not finite: lower the learning rate, or look at the batches "
        f"before them. Unless it still runs, go on with: tether train --resume --out {run}"
    )
    assert f"{said} There is no final model yet" in report.write(run).read_text(encoding="utf-8")
    command(run)
    assert capsys.readouterr().err == f"{said}\n"
    (run / "model.json").write_text("{}")
    assert "There is no final model yet" in report.write(run).read_text(encoding="utf-8")
    monkeypatch.setattr("tether.load", lambda path, device: ColourModel())
    assert "The model shown is its newest checkpoint." in report.write(run, source=source).read_text(encoding="utf-8")


def test_next_steps_are_not_those_that_a_folder_says(run):
    numbers = dict.fromkeys(("depth", "held_out", "low", "high", "chance"), 1)
    numbers |= dict.fromkeys(("train", "before", "epochs"))
    values = {"source": "photos", "images": 9, "captions": 9, "pool": 9, "scratch": False, "next": ["curl evil"]}
    (run / "meaning.json").write_text(json.dumps(numbers | values))
    page = report.write(run).read_text(encoding="utf-8")
    assert "What this means" in page
    assert f"tether inspect {run} --pairs PAIRS" in page
    assert "curl evil" not in page


def test_model_without_a_source_asks_for_one(run):
    (run / "model.json").write_text("{}")
    page = report.write(run, model=ColourModel()).read_text(encoding="utf-8")
    assert "--source" in page


def test_what_is_no_run_is_refused(tmp_path, run):
    with pytest.raises(InputError, match="no such folder"):
        report.write(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a run"):
        report.write(tmp_path / "empty")
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text("{broken\n" + text)
    with pytest.raises(InputError, match=r"metrics.jsonl, line 1: not valid JSON"):
        report.write(run)
    (run / "metrics.jsonl").write_text('{"loss": 1}\n' + text)
    with pytest.raises(InputError, match="line 1: key 'step' is missing"):
        report.write(run)
    (run / "metrics.jsonl").write_text(text)
    (run / "config.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"config.yaml: not valid YAML"):
        report.write(run)


def test_run_without_a_single_step(tmp_path):
    (tmp_path / "config.yaml").write_text("size: tiny\n")
    assert "The run" in report.write(tmp_path).read_text(encoding="utf-8")


def test_thinning_keeps_the_spike_and_the_ends():
    points = [(float(step), 1.0) for step in range(20_000)]
    points[12_345] = (12_345.0, 99.0)
    kept = thin(points)
    assert len(kept) <= 702
    assert (12_345.0, 99.0) in kept
    assert kept[0][0] == 0
    assert kept[-1][0] == 19_999
    assert kept == sorted(kept)


def test_running_mean_of_a_line_is_the_line():
    points = [(float(step), 3.0 * step) for step in range(100)]
    np.testing.assert_allclose([v for _, v in running_mean(points)], [v for _, v in points], atol=1e-9)
    assert [step for step, _ in running_mean([(0, 1.0), (1, None), (2, math.nan), (3, 2.0)])] == [0, 3]


def test_limit_far_above_does_not_flatten_the_line():
    line = [(float(step), 1.0 + step % 2) for step in range(10)]
    limit = [(float(step), 1e6) for step in range(10)]
    drawn = chart("norm", lines=[Line("norm", "main", line), Line("limit", "limit", limit)], scale="log")
    heights = [float(y) for _, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", drawn.drawn[0].path)]
    assert max(heights) - min(heights) > 50


def test_chart_of_nothing_is_none_and_gaps_break_the_line():
    assert chart("x", lines=[Line("a", "main", [(0, 1.0)])]) is None
    assert chart("x", lines=[Line("a", "main", [(0, None), (1, None)])]) is None
    broken = chart("x", lines=[Line("a", "main", [(0, 1.0), (1, 2.0), (2, None), (3, 1.0), (4, 2.0)])])
    assert broken.drawn[0].path.count("M") == 2
    flat = chart("x", lines=[Line("a", "main", [(0, 5.0), (9, 5.0)])], marks=[Marks("m", "skipped", [(3, None)])])
    assert flat.drawn[1].count == 1
    assert flat.y_ticks


def test_constant_columns_of_a_run_draw():
    assert {c.title for c in of_run([record(s) for s in range(5)])} >= {"Loss", "Gradient norm", "Learning rate"}


def embedded(n=30, classes=0):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(n, 6, generator=generator)
    text = image + torch.randn(n, 6, generator=generator)
    names = tuple(f"caption {row}" for row in range(n))
    return Embedded(names, names, (), image, text, torch.arange(n))


def test_galleries_say_the_truth():
    seen = embedded()
    unit = [torch.nn.functional.normalize(rows, dim=-1) for rows in (seen.image, seen.text)]
    found = ranks(*unit)
    for gallery, rank in (
        (galleries.text_to_image, found.text_to_image),
        (galleries.image_to_text, found.image_to_text),
    ):
        hits, misses = gallery(seen, ranks=rank)
        assert hits
        assert misses
        for query in hits:
            assert query.rank == 1
            assert query.answers[0].right
        for query in misses:
            assert query.rank > 1
            assert query.answers[0].similarity >= query.own_similarity
            assert sum(answer.right for answer in query.answers) == (query.rank <= galleries.ANSWERS)
        assert [q.rank for q in misses if q.near] == sorted(q.rank for q in misses if q.near)
        assert len({(q.image, q.caption) for q in misses}) == len(misses)


def test_confusion_shows_the_most_frequent_classes():
    table = torch.arange(40 * 40).view(40, 40)
    shown = confusion(table, names=tuple(f"c{n}" for n in range(40)))
    assert shown.left_out == 10
    assert shown.names[-1] == "c39"
    assert shown.mistakes[0].count == 1598
    assert (shown.mistakes[0].true, shown.mistakes[0].named) == ("c39", "c38")


def test_map_puts_twins_together():
    rows = torch.nn.functional.normalize(torch.randn(20, 16, generator=torch.Generator().manual_seed(1)), dim=-1)
    plane = projection.neighbourhoods(torch.cat([rows, rows + 0.01]))
    assert plane.min() == 0
    assert plane.max() == 1
    distance = np.linalg.norm(plane[:, None] - plane[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (distance.argmin(axis=1) == (np.arange(40) + 20) % 40).mean() > 0.7  # by chance 1 in 39
    assert projection.neighbourhoods(rows[:3]).shape == (3, 2)
    assert projection.neighbourhoods(rows[:1]).tolist() == [[0, 0]]


def test_sprite_places_every_image():
    import base64
    import io

    from PIL import Image

    images = np.zeros((7, 3, 8, 8), dtype=np.uint8)
    for index in range(7):
        images[index] = 30 * index
    made = sprite(images)
    grid = np.asarray(Image.open(io.BytesIO(base64.b64decode(made.uri.partition(",")[2]))).convert("RGB")).astype(int)
    assert grid.shape == (24, 24, 3)
    for index in range(7):
        across, down = (float(part.rstrip("%")) / 100 * 16 for part in made.position(index).split())
        cell = grid[round(down) : round(down) + 8, round(across) : round(across) + 8]
        assert abs(cell.mean() - 30 * index) < 3


def test_durations():
    assert [duration(s) for s in (3.21, 74, 3700)] == ["3.2 s", "1 min 14 s", "1 h 1 min"]
