"""The recipes of LEAF and un2CLIP by the verb: reasons to refuse, and what a look at captions is for."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import csv

import tether
from memory_rows import MemoryRows, captions, squares
from tether.core.errors import InputError
from tether.core.types import Batch, ClipReport
from tether.data import open_source
from tether.methods.un2clip import train_denoiser
from tether.methods.un2clip.denoiser import ConditionalDenoiser
from tether.methods.un2clip.recipe import _Watch
from tether.models import create
from tether.training.loop import StepReport
from tether.workflows.adaptation.interpolation import SHARES

pytestmark = pytest.mark.slow

QUICK = {"steps": 2, "batch_size": 6, "size": 8, "width": 8}


@pytest.fixture
def model():
    return create("tiny", seed=1).eval()


def test_a_denoiser_that_does_not_listen_ends_the_run_with_the_reason(model, tmp_path):
    with pytest.raises(InputError, match="does not look at its condition"):
        tether.adapt(model, squares(), recipe={"name": "detail", "denoiser_steps": 1, **QUICK}, out=tmp_path / "out")
    assert not (tmp_path / "out" / "model.json").exists()


def test_a_denoiser_of_another_model_is_refused_and_its_own_is_taken(model, tmp_path):
    denoiser = ConditionalDenoiser(model.dim, shape=(3, 8, 8), width=8)
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    train_denoiser(denoiser, model, [Batch(images, torch.empty(6, 0, dtype=torch.int64))], steps=1)
    denoiser.save(tmp_path / "denoiser.safetensors")
    spec = {"name": "detail", "denoiser": str(tmp_path / "denoiser.safetensors"), "least_gain": -1.0, **QUICK}
    done = tether.adapt(model, squares(), recipe=spec)
    assert not done.report.frozen.changed
    assert done.report.frozen.text_side
    with pytest.raises(InputError, match="not on this image side"):
        tether.adapt(create("tiny", seed=2).eval(), squares(), recipe=spec)


def no_run(*args, **settings):
    raise AssertionError("it ran")


@pytest.mark.parametrize("words", [(), ("a square",)])
def test_images_that_nothing_tells_apart_are_not_interpolated(model, words, monkeypatch, tmp_path):
    monkeypatch.setattr("tether.workflows.adapt.run", no_run)
    source = MemoryRows([replace(row, texts=words) for row in squares(40).rows])
    with pytest.raises(InputError, match="--interpolate: needs captions or labels that tell images apart"):
        tether.adapt(model, source, recipe={"name": "detail", **QUICK}, interpolate=True, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_texts_are_not_interpolated(model, monkeypatch):
    monkeypatch.setattr("tether.workflows.adapt.parts_of", no_run)
    with pytest.raises(InputError, match=r"--interpolate: .*typo_proof takes texts without images"):
        tether.adapt(model, captions(), recipe="typo-proof", interpolate=True)


@pytest.mark.parametrize(("column", "ending"), [("text", "csv"), ("caption", "csv"), ("text", "parquet")])
def test_a_table_of_texts_alone_is_learnt_from(model, column, ending, tmp_path):
    table = pa.table({column: [text for row in captions().rows for text in row.texts]})
    (csv.write_csv if ending == "csv" else pq.write_table)(table, tmp_path / f"texts.{ending}")
    spec = {"name": "typo_proof", "steps": 2, "batch_size": 8, "rho": 2}
    for path in (tmp_path / f"texts.{ending}", str(tmp_path / f"texts.{ending}")):
        done = tether.adapt(model, path, recipe=spec, keep=squares(12, seed=5))
        assert done.report.frozen.image_side
        assert int(done.report.data[0].split()[2]) + done.report.own[0].n == 36
    with pytest.raises(InputError, match="no column of images found"):
        tether.adapt(model, path, recipe="lora")


@pytest.mark.parametrize("data", ["csv", "no/such/texts.csv", {"name": "csv", "path": "no/such/texts.csv"}])
def test_what_has_neither_images_nor_texts_is_refused_as_before(model, data, tmp_path):
    if data == "csv":
        data = tmp_path / "words.csv"
        data.write_text("word\na cat\n")
    with pytest.raises(InputError) as before:
        open_source(data, where="DATA")
    with pytest.raises(InputError) as after:
        tether.adapt(model, data, recipe="typo_proof")
    assert str(after.value) == str(before.value)


def test_a_score_on_the_validation_part_is_not_called_held_out(model):
    spec = {"name": "detail", "denoiser_steps": 2, "least_gain": -1.0, **QUICK}
    report = tether.adapt(model, squares(60), recipe=spec, interpolate=True, keep=squares(12, seed=5)).report
    assert report.own == []
    assert [(point.share, point.own) for point in report.curve] == [(share, None) for share in SHARES]


@pytest.mark.parametrize("looked", [True, False])
def test_weights_of_the_last_good_look_come_back(model, looked):
    moving = {"visual.projection.weight": model.visual.projection.weight}
    watch = _Watch(model, moving, squares(12), first=3, every=2, most_drop=0.1)
    before = model.visual.projection.weight.detach().clone()
    nothing = torch.zeros(())
    report = [StepReport(step, nothing, {}, ClipReport(nothing, nothing, nothing, nothing), 0.0) for step in range(8)]
    if looked:
        watch._start = -1.0  # as good as any
        before += 1
        model.visual.projection.weight.data.copy_(before)
        watch.look(report[4])
    watch._start = 9.0  # worse than it was, whatever it is
    model.visual.projection.weight.data.zero_()
    watch.look(report[5])  # no look at this step
    assert not watch.stopped
    watch.look(report[6])
    assert watch.stopped
    again = _Watch(model, moving, squares(12), first=3, every=2, most_drop=0.1)
    again.load_state_dict(watch.state_dict())
    assert again.best() is model
    assert torch.equal(model.visual.projection.weight, before)


def test_typos_are_measured_before_and_after(model):
    spec = {"name": "typo_proof", "steps": 3, "batch_size": 8, "rho": 3, "learning_rate": 1e-4}
    done = tether.adapt(model, captions(), recipe=spec)
    names = [figure.name for figure in done.report.own]
    assert names == ["known without a typo", "known after one typo, the worst of 100"]
    assert done.report.own[0].before.value == 1
    assert done.report.own[1].before.value <= 1
    assert done.report.frozen.image_side
