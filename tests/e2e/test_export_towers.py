"""Towers of other makes as graphs without torch: starter's, and ours with gates, other attention and experts."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image

import tether
from tether.core.errors import InputError, MissingExtraError
from tether.models import create
from tether.models.encoders.onnx.graphs import INPUTS, example_ids, write_graph
from tether.models.encoders.onnx.parity import TOLERANCE

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

NO_TORCH = (
    "import runpy, sys\n"
    "sys.modules.update(torch=None, timm=None, transformers=None, tether=None)\n"
    "sys.argv = sys.argv[1:]\n"
    "runpy.run_path({script!r}, run_name='__main__')\n"
)
GATED = {"gate": "mirror", "block": {"preset": "skip_middle"}}
KINDS = {
    "linear attention, gates": {"vision": {"block": {"preset": "nalaformer"}}, "text": GATED},
    "gates, blocks without attention": {"vision": GATED, "text": {"without_attention": [0]}},
}


@pytest.mark.parametrize(
    ("kind", "side"),
    [
        ("gates, blocks without attention", "image"),
        pytest.param("gates, blocks without attention", "text", marks=pytest.mark.nightly),
        pytest.param("linear attention, gates", "image", marks=pytest.mark.nightly),
        pytest.param("linear attention, gates", "text", marks=pytest.mark.nightly),
    ],
)
@torch.no_grad()
def test_every_make_of_our_towers_gives_the_same(kind, side, tmp_path):
    sides = {name: {"layers": 2, **side} for name, side in KINDS[kind].items()}
    model = create("tiny", seed=0, image_size=32, **sides).eval()
    graph = write_graph(model, side, tmp_path / f"{side}.onnx")
    session = onnxruntime.InferenceSession(str(graph.path), providers=["CPUExecutionProvider"])
    for rows, length in ((1, 3), (3, 77), (64, 11)):
        if side == "image":
            given = torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(rows))
            ours = model.encode_image(given).unit
        else:
            given = example_ids(model, rows=rows, length=min(length, model.tokenizer.context_length))
            if rows > 1:  # one ends early
                given[1] = 0
                given[1, :3] = example_ids(model, rows=1, length=3)[0]
            ours = model.encode_text(given).unit
        theirs = torch.from_numpy(session.run(None, {INPUTS[side]: given.numpy()})[0])
        assert (ours - torch.nn.functional.normalize(theirs, dim=1)).abs().max() < TOLERANCE / 10


@pytest.mark.parametrize("side", ["image", "text"])
def test_experts_are_refused_by_name(side, tmp_path, capfd):
    moe = {"moe": {"experts": 4, "top_k": 2, "blocks": [1]}}
    model = create("tiny", seed=0, vision=moe if side == "image" else {}, text=moe if side == "text" else {}).eval()
    with pytest.raises(
        InputError, match=rf"the {side} tower \(Clip\) cannot be exported to ONNX: its experts each take"
    ):
        tether.export(model, tmp_path / "out", format="onnx")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.nightly
def test_starter_runs_without_torch(tmp_path):
    try:
        model = tether.load("starter")
    except MissingExtraError as error:
        pytest.skip(str(error))
    made = tether.export(model, tmp_path / "out", format="onnx")
    said = json.loads((made / "parity.json").read_text())["drawn"]
    assert max(side["max_difference"] for side in said.values()) < TOLERANCE / 10
    assert said["image"]["batches"] == [1, 3, 64]
    assert said["text"]["lengths"][0] == 3
    assert said["text"]["lengths"][-1] == model.tokenizer.context_length >= 77
    photo = tmp_path / "a.png"
    Image.radial_gradient("L").convert("RGB").resize((300, 280)).save(photo)
    things = [str(photo), "a photo of a cat", "Two dogs, one small boat"]
    rows = model.embed([photo, *things[1:]])
    assert torch.allclose(tether.load(made).embed([photo, *things[1:]]), rows, atol=1e-5)
    code = NO_TORCH.format(script=str(made / "run.py"))
    ran = subprocess.run(
        [sys.executable, "-c", code, "run.py", *things], capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr
    printed = torch.tensor([[float(word) for word in line.split()[:3]] for line in ran.stdout.splitlines()])
    assert (printed - rows @ rows.T).abs().max() < 5e-3  # Pillow resizes there, torch here
