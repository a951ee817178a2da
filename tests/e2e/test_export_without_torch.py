"""``tether export --format onnx`` and ``openvino``: folders that run without torch, and what is refused of them."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment

import tether
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.model_digest import model_digest
from tether.core.types import Features
from tether.data.images import load
from tether.models import create
from tether.models.encoders.onnx import folder as folders
from tether.models.encoders.onnx import graphs
from tether.models.encoders.onnx.graphs import Graph, example_ids
from tether.models.encoders.onnx.parity import TOLERANCE
from tether.models.encoders.onnx.untrusted import check_onnx, check_openvino
from tether.models.encoders.truncated import NarrowEncoder

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

WORDS = ("red", "small", "two", "old", "wet", "blue", "tall", "round", "soft", "loud", "dry", "new")
THINGS = ("cat", "boat", "tree", "house", "spoon", "cloud", "horse", "shoe", "lamp", "road", "drum", "coat")
NO_TORCH = (
    "import runpy, sys\n"
    "sys.modules.update(torch=None, transformers=None, tether=None)\n"
    "sys.argv = [sys.argv[1], *sys.argv[2:]]\n"
    "runpy.run_path({script!r}, run_name='__main__')\n"
    "assert sys.modules['torch'] is None\n"
)


@pytest.fixture(scope="module")
def model():
    return create("tiny", seed=0).eval()


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """A float32 folder, exported once for all tests here."""
    return tether.export(model, tmp_path_factory.mktemp("graphs") / "out", format="onnx")


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


@pytest.fixture
def again(whole, monkeypatch):
    """Further exports of the same model copy its graphs, which take seconds to trace."""

    def copied(model, side, path):
        shutil.copyfile(whole / f"{side}.onnx", path)
        return Graph(path)

    monkeypatch.setattr(folders, "write_graph", copied)


@pytest.fixture(scope="module")
def pairs(model, tmp_path_factory):
    """48 images, each with the caption that this model likes for it rather than for the others."""
    folder, chance = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    paths = [folder / f"{row:02}.png" for row in range(48)]
    for path in paths:
        Image.fromarray(chance.integers(0, 256, (4, 4, 3), np.uint8)).resize((40, 36)).save(path)
    texts = [f"a {word} {thing}" for word in WORDS for thing in THINGS]
    cosines = model.embed(paths) @ model.embed(texts).T
    apart = (cosines - cosines.mean(0)) / cosines.std(0)
    for row, text in zip(*linear_sum_assignment(-apart.numpy()), strict=True):
        paths[row].with_suffix(".txt").write_text(texts[text])
    return folder


def _far(ours: Features, theirs: Features) -> float:
    return float((ours.unit - theirs.unit).abs().max())


@torch.no_grad()
def test_the_same_embeddings_for_any_number_of_rows_and_any_length(model, whole):
    exported = tether.load(whole)
    for rows in (1, 3, 64):
        pixels = torch.randint(0, 256, (rows, 3, 32, 32), dtype=torch.uint8)
        assert _far(model.encode_image(pixels), exported.encode_image(pixels)) < TOLERANCE / 10
        for length in (2, 3, 11, model.tokenizer.context_length):
            ids = example_ids(model, rows=rows, length=length)
            ids[-1, 1] = ids[-1, -1].item()  # ends early
            assert _far(model.encode_text(ids), exported.encode_text(ids)) < TOLERANCE / 10
    said = json.loads((whole / "parity.json").read_text())["drawn"]
    assert said["image"]["max_difference"] < TOLERANCE
    assert said["text"]["lengths"][0] == 3
    assert exported.logit_scale.item() == pytest.approx(model.logit_scale.item())
    assert (exported.dim, exported.image_spec) == (model.dim, model.image_spec)
    assert exported.encode_image(torch.empty(0, 3, 32, 32)).pooled.shape == (0, model.dim)


def test_it_embeds_searches_classifies_and_is_measured(model, whole, pairs, tmp_path):
    exported = tether.load(whole)
    things = ["a red cat", pairs / "00.png"]
    assert torch.allclose(exported.embed(things), model.embed(things), atol=1e-5)
    ours, theirs = (tether.eval(one, pairs, measures=["retrieval"], bootstrap=0) for one in (model, exported))
    assert theirs["text_to_image_r5"] == ours["text_to_image_r5"]
    assert ours["text_to_image_r10"] > 1.5 * ours["text_to_image_r10_chance"]
    found = [tether.classify(pairs, ["cat", "boat"], model=one) for one in (model, exported)]
    assert [one.label for one in found[0].labels] == [one.label for one in found[1].labels]


def test_another_process_opens_the_same_graphs(whole):
    exported, ids = tether.load(whole), torch.tensor([[1, 2, 3]])
    sent = pickle.loads(pickle.dumps(exported))
    assert _far(exported.encode_text(ids), sent.encode_text(ids)) == 0
    assert model_digest(exported) == model_digest(sent)


@pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
def test_the_script_runs_where_torch_cannot_be_imported(model, whole, pairs):
    texts, images = (
        ["a red cat", "A tall boat, by the sea!", "word " * 40],
        [str(pairs / "00.png"), str(pairs / "01.png")],
    )
    code = NO_TORCH.format(script=str(whole / "run.py"))
    ran = subprocess.run(
        [sys.executable, "-c", code, "run.py", *images, *texts], capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    printed = torch.tensor([[float(word) for word in line.split()[:5]] for line in ran.stdout.splitlines()])
    rows = model.embed([*map(str, images), *texts], long_text="cut")
    assert (printed - rows @ rows.T).abs().max() < 2e-3  # Pillow resizes there, torch here
    code = code.replace("runpy.run_path", "sys.modules['tokenizers'] = None; runpy.run_path")
    ran = subprocess.run([sys.executable, "-c", code, "run.py", "a cat"], capture_output=True, text=True, timeout=300)
    assert ran.stderr == "run.py needs tokenizers: pip install onnxruntime tokenizers Pillow\n"


@pytest.mark.parametrize("way", ["tether", "run.py"])
def test_nothing_is_kept_to_be_reported_to_onnxruntime_s_maker(folder, tmp_path, monkeypatch, way):
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "XDG_CACHE_HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    loaded = [sys.executable, "-c", f"import tether; tether.load({str(folder)!r}).embed(['a cat'])"]
    command = loaded if way == "tether" else [sys.executable, str(folder / "run.py"), "a cat"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert not [path for path in home.rglob("*") if "onnxruntime" in path.name]


def test_a_float_folder_says_what_real_rows_give(model, pairs, again, tmp_path):
    made = tether.export(model, tmp_path / "out", format="onnx", data=pairs)
    said = json.loads((made / "parity.json").read_text())
    assert said["data"]["rows"] == 48
    assert said["data"]["image"]["min_cosine"] > 0.99999
    assert said["recall"]["before"] == said["recall"]["after"]
    assert "| text_to_image_r10 |" in (made / "README.md").read_text()


def test_int8_keeps_recall_or_is_refused_with_the_figures(call, model, pairs, again, tmp_path, monkeypatch):
    saved = tether.save(model, tmp_path / "model")
    asked = ("export", saved, "--format", "onnx", "--int8", "--data", pairs, "--calibration", 16)
    said = call(*asked, "--out", tmp_path / "out", "--allow", 10).out
    assert "R@10" in said
    exported = tether.load(tmp_path / "out")
    assert exported.described.precision == "int8"
    pixels = torch.stack([load(path, model.image_spec) for path in sorted(pairs.glob("*.png"))])
    with torch.no_grad():
        ours, theirs = model.encode_image(pixels).unit, exported.encode_image(pixels).unit
    assert 0.99 < (ours * theirs).sum(1).min() < 0.9999999
    kinds = {node.op_type for node in onnx.load(tmp_path / "out" / "image.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds

    def broken(path, side, **_):
        graph = onnx.load(path)
        for value in graph.graph.initializer:
            if len(value.dims) == 2 and value.data_type == onnx.TensorProto.FLOAT:
                numbers = np.random.default_rng(0).normal(size=value.dims).astype(np.float32)
                value.CopyFrom(onnx.numpy_helper.from_array(numbers, value.name))
        onnx.save(graph, path)

    monkeypatch.setattr(folders, "quantise", broken)
    before = sorted(path.name for path in tmp_path.iterdir())
    said = call(*asked, "--out", tmp_path / "lost", code=2).err
    assert "recall at 10 falls by" in said
    assert "text_to_image_r10" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_what_int8_needs(call, model, pairs, again, tmp_path):
    saved = tether.save(model, tmp_path / "model")
    asked = ("export", saved, "--format", "onnx", "--out", tmp_path / "out", "--int8")
    assert "--data SOURCE" in call(*asked, code=2).err
    assert "1 images and 1 captions" in call(*asked, "--data", pairs, "--calibration", 1, code=2).err
    assert "formats onnx and openvino" in call("export", saved, tmp_path / "out", "--int8", code=2).err
    assert "expected one new folder" in call("export", saved, "--format", "onnx", code=2).err
    assert not (tmp_path / "out").exists()


def test_openvino_gives_the_same(model, whole, again, tmp_path):
    pytest.importorskip("openvino")
    made = tether.export(model, tmp_path / "out", format="openvino")
    assert {"image.xml", "image.bin", "text.xml", "text.bin"} < {path.name for path in made.iterdir()}
    exported = tether.load(made)
    ids = example_ids(model, rows=3, length=7)
    with torch.no_grad():
        assert _far(model.encode_text(ids), exported.encode_text(ids)) < TOLERANCE
    assert model_digest(exported) != model_digest(tether.load(whole))
    graph = made / "image.xml"
    text = graph.read_text()
    for changed, said in (
        (text.replace('version="opset1"', 'version="extension"', 1), "custom ones are never run"),
        ("<!DOCTYPE net>" + text.split("?>")[-1], "document type"),
        (text[: len(text) // 2], "not a whole file"),
    ):
        graph.write_text(changed)
        with pytest.raises(InputError, match=said):
            check_openvino(graph)
    graph.write_text(text)
    (made / "image.bin").write_bytes((made / "image.bin").read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated"):
        tether.load(made)


def test_narrow_and_pruned_models(model, again, tmp_path, monkeypatch):
    narrow = NarrowEncoder(model, dims=16)
    assert graphs._Images(narrow)(torch.zeros(1, 3, 32, 32)).shape == (1, 16)
    pruned = create("tiny", seed=0).eval()
    pruned.prune_vocabulary_(torch.arange(300, 400))
    texts = pruned.tokenizer(["a red cat", "two dogs"])
    module = graphs._Texts(pruned)
    program = torch.export.export(module, (texts,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    with torch.no_grad():
        assert torch.allclose(program.module()(texts[:2]), model.encode_text(texts).pooled, atol=1e-5)


def test_a_tower_that_cannot_be_exported_is_named(model, tmp_path, monkeypatch):
    def looks(text, **_):
        return Features(torch.zeros(len(text), 64) if bool(text.sum() > 3) else torch.ones(len(text), 64))

    monkeypatch.setattr(graphs, "INLINE", graphs.INLINE)
    other = create("tiny", seed=0).eval()
    monkeypatch.setattr(other, "encode_text", looks)
    with pytest.raises(InputError, match=r"the text tower \(Clip\) cannot be exported to ONNX: \w+"):
        graphs.write_graph(other, "text", tmp_path / "text.onnx")


def test_what_needs_gradients_or_other_sizes_is_refused(whole, tmp_path):
    exported = tether.load(whole)
    with pytest.raises(UnsupportedModelError, match="cannot be trained"):
        exported.train()
    with pytest.raises(UnsupportedModelError, match="no gradients"):
        exported.encode_image(torch.zeros(1, 3, 32, 32, requires_grad=True))
    with pytest.raises(InputError, match="exported at their sizes"):
        exported.resized(image_size=64)
    with pytest.raises(InputError, match="exported folder"):
        tether.save(exported, tmp_path / "saved")
    for form in ("onnx", "open_clip"):
        with pytest.raises(InputError):
            tether.export(exported, tmp_path / "again", format=form)
    with pytest.raises(InputError, match="expected ids 0 to"):
        exported.encode_text(torch.tensor([[1, 10**9]]))
    with pytest.raises(InputError, match=r"expected \(b, 3, 32, 32\)"):
        exported.encode_image(torch.zeros(1, 3, 31, 32))
    assert not list(tmp_path.iterdir())


def _changed(folder, change):
    path = folder / "image.onnx"
    graph = onnx.load(path)
    change(graph)
    path.write_bytes(graph.SerializeToString())


def _outside(location):
    def change(graph):
        tensor = max(graph.graph.initializer, key=lambda value: len(value.raw_data))
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        tensor.external_data.add(key="length", value="40")

    return change


def _custom(graph):
    graph.graph.node[0].domain = "com.evil"


def _loop(graph):
    graph.graph.node[0].op_type = "Loop"


def _bomb(graph):
    node = onnx.helper.make_node("ConstantOfShape", ["bomb_shape"], ["bomb"])
    shape = onnx.numpy_helper.from_array(np.array([2**20, 2**20], np.int64), "bomb_shape")
    graph.graph.initializer.append(shape)
    graph.graph.node.append(node)


def _hidden_bomb(graph):
    _bomb(graph)
    graph.graph.node[-1].input[0] = "hidden"
    graph.graph.node.append(onnx.helper.make_node("Pow", ["bomb_shape", "bomb_shape"], ["hidden"]))


def _many(graph):
    shape = onnx.numpy_helper.from_array(np.array([2**26], np.int64), "shape_of_many")
    graph.graph.initializer.append(shape)
    for number in range(100):
        graph.graph.node.append(onnx.helper.make_node("ConstantOfShape", ["shape_of_many"], [f"one_of_{number}"]))


def _long_range(graph):
    ends = [("start", 0), ("limit", 2**40), ("step", 1)]
    graph.graph.initializer.extend(onnx.numpy_helper.from_array(np.array(value), name) for name, value in ends)
    graph.graph.node.append(onnx.helper.make_node("Range", [name for name, _ in ends], ["long"]))


def _sparse(graph):
    values, place = (onnx.numpy_helper.from_array(np.array([one])) for one in (1.0, 1))
    graph.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, place, [2**40]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_outside("../secret.bin"), "expected a file in the same folder"),
        (_outside("/etc/passwd"), "expected a file in the same folder"),
        (_outside("gone.bin"), "no such file"),
        (_custom, "custom ones are never run"),
        (_loop, "runs graphs of its own"),
        (_bomb, "numbers, .* at most"),
        (_hidden_bomb, r"the size of 'bomb' \(ConstantOfShape\) cannot be told before it runs"),
        (_many, "numbers, .* with those before it; at most"),
        (_long_range, r"the size of 'long' \(Range\)|numbers, .* at most"),
        (_sparse, "sparse weights"),
    ],
)
def test_graphs_of_others_that_are_refused(folder, change, said):
    (folder.parent / "secret.bin").write_bytes(bytes(4096))
    _changed(folder, change)
    with pytest.raises(InputError, match=said):
        tether.load(folder)


def test_weights_beside_a_graph_may_not_be_links_or_too_short(folder):
    _changed(folder, _outside("beside.bin"))
    (folder / "beside.bin").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="or a link"):
        check_onnx(folder / "image.onnx", (1, 3, 32, 32))
    (folder / "beside.bin").unlink()
    (folder / "beside.bin").write_bytes(b"12")
    with pytest.raises(InputError, match="truncated: 2 bytes"):
        check_onnx(folder / "image.onnx", (1, 3, 32, 32))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_graph_is_one_message(folder, share):
    data = (folder / "text.onnx").read_bytes()
    (folder / "text.onnx").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"text\.onnx"):
        tether.load(folder)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("format", "other", "does not describe an exported model"),
        ("version", 2, "reads version 1"),
        ("runtime", "tensorrt", "runtime: unknown"),
        ("files", {"image": "../image.onnx", "text": "text.onnx"}, r"files\.image"),
        ("files", {"image": "image.onnx"}, r"files\.text"),
        ("dim", 65, "its output is"),
        ("dim", 0, "dim: expected 1 to"),
        ("logit_scale", float("nan"), "logit_scale"),
        ("logit_bias", float("nan"), "logit_bias: expected a finite"),
        ("geometry", "flat", "unknown geometry"),
        ("image", {"size": [48, 48]}, "its input is"),
        ("text", {"context": 24, "vocabulary": 100, "pad": 0, "tokenizer": "clip"}, "49408 ids"),
        ("templates", ["no place"], "templates"),
    ],
)
def test_descriptions_of_others_that_are_refused(folder, key, value, said):
    path = folder / "tether_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {key: value}))
    with pytest.raises(InputError, match=said):
        tether.load(folder)
