"""Models of other libraries on disk: saved, trained, exported, and what a broken folder says."""

import dataclasses
import errno
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import tether
from encoders import transformers, word_tokenizer
from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.models import create
from tether.models.convert.saved_files import separate, write_weights
from tether.models.encoders.wrapped import OpenClipEncoder
from tether.models.save import write_config
from tether.training import load_config, train
from tether.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow

TEXTS = ["a cat", "a small red cat sits", "the dog in the sun"]
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


def _open_clip(folder, text, **more):
    import open_clip

    vision = {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, **more}
    values = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "squash"}}
    (folder / "open_clip_config.json").write_text(json.dumps(values))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    save_file(separate(model.state_dict()), folder / "open_clip_model.safetensors")
    return tether.load(folder)


def _convnext(folder):
    return _open_clip(folder, TEXT, init_logit_bias=-10.0)


def _clean_words(folder):
    return _open_clip(folder, TEXT | {"tokenizer_kwargs": {"clean": "canonicalize"}})


def _hugging_face_text(folder):
    from transformers import RobertaConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    RobertaConfig(vocab_size=64, pad_token_id=0, max_position_embeddings=24, **sizes).save_pretrained(folder / "text")
    word_tokenizer(folder, pad="<pad>")
    names = {"hf_model_name": str(folder / "text"), "hf_tokenizer_name": str(folder)}
    text = {**names, "context_length": 16, "vocab_size": 64, "hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"}
    return _open_clip(folder, text)


def _siglip(folder):
    return transformers(folder, layers=1)


def _siglip2(folder):
    """At fixed resolution a SiglipModel whose configuration says to pad with 1 and whose tokenizer is Gemma's."""
    from transformers import GemmaTokenizer

    vocabulary = {name: row for row, name in enumerate(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *"▁act", "ca"))}
    words = {"add_bos_token": False, "add_eos_token": True}
    _siglip(folder)
    GemmaTokenizer(vocab=vocabulary | {"cat": 10}, merges=[("c", "a"), ("ca", "t")], **words).save_pretrained(folder)
    return tether.load(folder)


BUILDERS = {
    "convnext": _convnext,
    "clean_words": _clean_words,
    "hugging_face_text": _hugging_face_text,
    "siglip": _siglip,
}


def _build(name, folder):
    """A model whose source is gone, so that nothing can come from there."""
    folder.mkdir()
    model = BUILDERS[name](folder)
    shutil.rmtree(folder)
    return model


@pytest.fixture(scope="module", params=list(BUILDERS))
def model(request, tmp_path_factory):
    return _build(request.param, tmp_path_factory.mktemp(request.param) / "source")


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return _build("siglip", tmp_path_factory.mktemp("siglip") / "source")


@pytest.fixture(scope="module")
def convnext(tmp_path_factory):
    return _build("convnext", tmp_path_factory.mktemp("convnext") / "source")


def _embeddings(model):
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (2, 3, *model.image_spec.size), dtype=torch.uint8, generator=generator)
    with torch.inference_mode():
        return model(pixels, model.tokenizer(TEXTS[:2]))


def _assert_equal(first, second):
    assert type(first) is type(second)
    for name in ("dim", "image_spec", "pad", "config"):
        assert getattr(first, name) == getattr(second, name), name
    assert torch.equal(first.tokenizer(TEXTS), second.tokenizer(TEXTS))
    a, b = _embeddings(first), _embeddings(second)
    assert torch.equal(a.image.pooled, b.image.pooled)
    assert torch.equal(a.text.pooled, b.text.pooled)
    assert torch.equal(a.logit_scale, b.logit_scale)
    assert (a.logit_bias is None and b.logit_bias is None) or torch.equal(a.logit_bias, b.logit_bias)


def _shaken(model):
    """Other weights, so that none of the source's can pass for those of the file."""
    generator = torch.Generator().manual_seed(9)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for value in state.values():
        if value.is_floating_point():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.01)
    model.load_state_dict(state)
    return model


def test_round_trip(model, tmp_path):
    _shaken(model)
    folder = tether.save(model, tmp_path / "model")
    assert {path.name for path in folder.iterdir()} - {"tokenizer"} == {"model.json", "model.safetensors"}
    again = tether.load(folder)
    assert not again.training
    _assert_equal(again, model)
    assert model_digest(again) == model_digest(model)
    tether.save(again, folder)  # over itself
    moved = folder.rename(tmp_path / "moved")
    _assert_equal(tether.load(moved / "model.safetensors"), model)
    assert not [path for path in moved.iterdir() if path.name.startswith(".")]


def test_another_preprocessing_survives(siglip, tmp_path):
    spec = dataclasses.replace(siglip.image_spec, mean=(0.1, 0.2, 0.3), interpolation="bilinear")
    before, siglip.image_spec = siglip.image_spec, spec
    try:
        assert tether.load(tether.save(siglip, tmp_path)).image_spec == spec
    finally:
        siglip.image_spec = before


@pytest.mark.parametrize("key", ["hidden_act", "layer_norm_eps"])
def test_the_digest_sees_what_a_configuration_decides(siglip, key, tmp_path):
    """The same weights with another activation or epsilon are another model."""
    folder = tether.save(siglip, tmp_path)
    values = json.loads((folder / "model.json").read_text())
    values["config"]["vision_config"][key] = {"hidden_act": "relu", "layer_norm_eps": 0.1}[key]
    values["config"]["transformers_version"] = "5.99"
    before = model_digest(siglip)
    (folder / "model.json").write_text(json.dumps(values))
    assert model_digest(tether.load(folder)) != before
    del values["config"]["vision_config"][key]
    (folder / "model.json").write_text(json.dumps(values))
    assert model_digest(tether.load(folder)) == before


def test_a_model_without_a_tokenizer(tmp_path):
    (tmp_path / "source").mkdir()
    _siglip(tmp_path / "source")
    for file in (tmp_path / "source").glob("tokenizer*"):
        file.unlink()
    model = tether.load(tether.save(tether.load(tmp_path / "source"), tmp_path / "saved"))
    with pytest.raises(InputError, match=r"this model has no tokenizer: .*was saved from a model without one"):
        model.tokenizer(["a cat"])
    assert model.encode_text(torch.tensor([[3, 4, 1]])).pooled.shape == (1, 32)


def test_checkpoints_of_an_unfinished_run(model, tmp_path):
    write_config(model, tmp_path)
    with pytest.raises(InputError, match=r"model\.safetensors: no such file; the model has no weights"):
        tether.load(tmp_path)
    assert tether.load(tmp_path, random_weights=True).dim == model.dim
    path = tmp_path / "checkpoints" / "step-00000003"
    path.mkdir(parents=True)
    save_file(separate(model.state_dict()), path / "model.safetensors")
    _assert_equal(tether.load(tmp_path), model)
    _assert_equal(tether.load(path), model)


def test_tied_weights(tmp_path):
    table = nn.Embedding(4, 2)
    tied = nn.Module()
    tied.table, tied.head, tied.part = table, nn.Linear(2, 4, bias=False), nn.Parameter(table.weight.detach()[1:])
    tied.head.weight = table.weight
    write_weights(tmp_path / "tied.safetensors", tied.state_dict(), metadata={})
    checkpoint = save_checkpoint(tmp_path, Checkpoint(1, {"model": tied.state_dict()}, {}), keep=1)
    for written in (load_file(tmp_path / "tied.safetensors"), load_checkpoint(checkpoint).tensors["model"]):
        assert written.keys() == tied.state_dict().keys()
        assert all(torch.equal(value, tied.state_dict()[name]) for name, value in written.items())


def test_train_one_step_and_load(model, tmp_path):
    start = tether.save(model, tmp_path / "start")
    config = load_config(
        overrides=[
            f"model={{load: {start}}}",
            "data={name: emoji, split: validation, size: 32}",
            "batch_size=8",
            "steps=2",
            "save_every=1",
            "precision=fp32",
            "optimizer={name: adamw, lr: 0.01}",
            "schedule={name: constant}",
            "threads=1",
        ]
    )
    run = tmp_path / "run"
    seen = {}

    def look(encoder):
        seen.update({name: value.clone() for name, value in encoder.state_dict().items()})
        return {}

    train(config, folder=run, evaluate=look)
    trained, checkpoint = tether.load(run), tether.load(run / "checkpoints" / "step-00000001")
    state = trained.state_dict()
    assert state.keys() == seen.keys()
    assert all(torch.equal(value, seen[name]) for name, value in state.items())
    first, last = dict(model.named_parameters()), dict(trained.named_parameters())
    middle = dict(checkpoint.named_parameters())
    for name in ("visual", "text") if isinstance(model, OpenClipEncoder) else ("vision_model", "text_model"):
        mine = [key for key in first if name in key or (name == "text" and ".transformer." in key)]
        assert any(not torch.equal(first[key], middle[key]) for key in mine), name
        assert any(not torch.equal(middle[key], last[key]) for key in mine), name
    assert torch.equal(trained.tokenizer(TEXTS), model.tokenizer(TEXTS))


@pytest.mark.parametrize("pad", [0, 1, None])
def test_siglip_2_is_padded_and_lower_cased_as_it_was_trained(tmp_path, pad):
    from transformers import Siglip2Tokenizer, SiglipModel

    model = _siglip2(tmp_path / "source")
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    config["text_config"]["pad_token_id"] = pad
    (tmp_path / "source" / "config.json").write_text(json.dumps(config))
    texts = ["a cat", "A Cat", "cat", "tac a cat"]
    words = Siglip2Tokenizer.from_pretrained(tmp_path / "source")
    padded = words(texts, padding="max_length", max_length=16, padding_side="right", return_tensors="pt")["input_ids"]
    theirs = SiglipModel.from_pretrained(tmp_path / "source").eval()
    again = tether.load(tether.save(tether.load(tmp_path / "source"), tmp_path / "saved"))
    with torch.inference_mode():
        expected = theirs.text_model(input_ids=padded).pooler_output
        for loaded in (model, again):
            found = loaded.encode_text(loaded.tokenizer(texts)).pooled
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected[0], expected[2], atol=1e-2)


@pytest.mark.parametrize("kind", ["convnext", "siglip"])
def test_export_to_its_own_library(kind, tmp_path, request):
    model = request.getfixturevalue(kind)
    form = "open_clip" if kind == "convnext" else "transformers"
    folder = tether.export(model, tmp_path / "out", format=form)
    _assert_equal(tether.load(folder), model)
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    if kind == "convnext":
        import open_clip

        theirs = open_clip.create_model(f"local-dir:{folder}").eval()
        with torch.inference_mode():
            torch.testing.assert_close(theirs.encode_image(pixels), model.encode_image(pixels).pooled)
    else:
        from transformers import AutoTokenizer, SiglipModel

        theirs = SiglipModel.from_pretrained(folder).eval()
        with torch.inference_mode():
            picture = theirs.vision_model(pixel_values=pixels).pooler_output
            torch.testing.assert_close(picture, model.encode_image(pixels).pooled)
        assert AutoTokenizer.from_pretrained(folder)(["a cat"])["input_ids"] == [[3, 6, 1]]
    other = "transformers" if kind == "convnext" else "open_clip"
    with pytest.raises(InputError, match=f"goes to '{form}' or 'tether' alone, not to '{other}'"):
        tether.export(model, tmp_path / "other", format=other)
    assert not (tmp_path / "other").exists()
    _assert_equal(tether.load(tether.export(model, tmp_path / "own", format="tether")), model)


def test_foreign_weights(convnext, siglip, tmp_path):
    folder = tether.save(siglip, tmp_path)
    save_file(separate(convnext.state_dict()), folder / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: weights of another architecture: missing model\."):
        tether.load(folder)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("siglip", {"version": 2}, "version 2; this tether reads version 1"),
        ("siglip", {"config": [1]}, r"config: expected dict, got \[1\]"),
        ("siglip", {"library": "timm"}, "library: unknown 'timm'; known: open_clip, transformers"),
        ("siglip", {"tokenizer": "file"}, "tokenizer: unknown 'file'; did you mean 'files'"),
        ("siglip", {"config": {"model_type": "bert"}}, "model_type 'bert' is not known here; known: align, altclip"),
        ("siglip", {"config": {"model_type": "siglip"}}, r"model\.json: vision_config: expected a mapping"),
        ("siglip", {"image": {"mean": [0, 0, 0]}}, r"model\.json\.image\.size: expected height and width"),
        ("siglip", {"image": {"side": 3}}, r"model\.json\.image: unknown key 'side'"),
        ("siglip", {"class": "CLIPModel"}, "class: expected SiglipModel, got 'CLIPModel'"),
        ("convnext", {"config": {"embed_dim": 24}}, "no model can be built from it: KeyError"),
    ],
)
def test_a_broken_description(kind, change, message, tmp_path, request):
    folder = tether.save(request.getfixturevalue(kind), tmp_path)
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=r"model\.json.*" + message if "model" not in message[:6] else message):
        tether.load(folder)


def test_parts_of_a_description_that_code_or_a_network_would_fill(tmp_path):
    folder = tether.save(_build("hugging_face_text", tmp_path / "source"), tmp_path / "saved")
    path = folder / "model.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"text_config": None}))
    with pytest.raises(InputError, match=r"model\.json: text_config: expected the configuration of "):
        tether.load(folder)
    values["config"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="trust_remote_code runs code from a file"):
        tether.load(folder)


def test_a_missing_or_malformed_tokenizer(siglip, tmp_path):
    folder = tether.save(siglip, tmp_path)
    (folder / "tokenizer" / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer\.json: not valid JSON"):
        tether.load(folder)
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(InputError, match="tokenizer: no such folder; expected the model's tokenizer"):
        tether.load(folder)


def test_a_tokenizer_of_someone_else_is_refused_before_anything_is_written(siglip, tmp_path):
    class Other:
        context_length, vocab_size, cut = 16, 64, 0

        def __call__(self, texts):
            return torch.zeros(len(texts), 1, dtype=torch.int64)

    before, siglip.tokenizer = siglip.tokenizer, Other()
    try:
        with pytest.raises(InputError, match="expected the tokenizer that the model came with, got Other"):
            tether.save(siglip, tmp_path / "out")
    finally:
        siglip.tokenizer = before
    assert not (tmp_path / "out").exists()


def test_a_clip_with_words_of_its_own(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | {"vocab_size": 64, "max_position_embeddings": 16, "eos_token_id": 1}
    vision = sizes | {"image_size": 32, "patch_size": 16}
    source = tmp_path / "source"
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).save_pretrained(source)
    word_tokenizer(source, pad="<pad>")
    model = tether.load(source)
    folder = tether.save(model, tmp_path / "saved")
    shutil.rmtree(source)
    again = tether.load(folder)
    assert again.tokenizer(["a cat"]).tolist() == [[3, 6, 1]]
    assert torch.equal(_embeddings(again).text.pooled, _embeddings(model).text.pooled)
    tether.save(create("tiny"), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_a_full_disk_leaves_the_old_model(siglip, tmp_path, monkeypatch):
    import safetensors.torch

    folder = tether.save(siglip, tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def full(tensors, path, metadata=None):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        tether.save(siglip, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
