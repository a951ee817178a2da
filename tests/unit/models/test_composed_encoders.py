"""Encoders of two towers that never met: how they are named, refused, saved and locked."""

import json

import pytest
import torch
from safetensors.torch import save_file

import tether
from encoders import ENCODERS
from tether.core.errors import InputError, MissingExtraError
from tether.core.model_digest import model_digest
from tether.models import create
from tether.models.compose import compose, from_recipe
from tether.models.composed import starter
from tether.models.composed.class_names import ClassNameMap, ridge_of_rows
from tether.models.composed.dual_tower import dual_tower
from tether.models.composed.encoder import ComposedEncoder
from tether.models.embed import encode_texts
from tether.models.model_uri import near
from tether.training.config import RunConfig
from tether.training.parts import new_encoder

pytestmark = pytest.mark.slow

TEXTS = ["a dog", "two dogs in the sun"]
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    from timm import create_model
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast, ViTConfig, ViTForImageClassification

    folder = tmp_path_factory.mktemp("towers")
    torch.manual_seed(0)
    save_file(create_model("test_convnext").state_dict(), folder / "convnext.safetensors")
    ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **SHAPE)).save_pretrained(folder / "vit")
    BertForMaskedLM(BertConfig(vocab_size=16, max_position_embeddings=16, **SHAPE)).save_pretrained(folder / "bert")
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[SEP]": 1, "[UNK]": 2, "a": 3, "dog": 4, "the": 5}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 1)])
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]").save_pretrained(folder / "bert")
    tether.save(create("tiny", seed=1), folder / "own")
    return folder


def names(towers, image, text):
    image = f"timm:test_convnext/{towers / 'convnext.safetensors'}" if image == "timm" else str(towers / image)
    return {"image": image, "text": str(towers / text)}


@pytest.mark.parametrize(
    ("image", "text", "join"),
    [("timm", "bert", "linear"), ("vit", "bert", {"image": "mlp", "text": "none"}), ("own", "bert", "linear"),
     ("vit", "own", "mlp")],
)  # fmt: skip
def test_round_trip(towers, tmp_path, image, text, join):
    model = compose(**names(towers, image, text), join=join).eval()
    tether.save(model, tmp_path)
    again = tether.load(tmp_path)
    pixels = torch.randint(0, 256, (2, 3, *model.image_spec.size), dtype=torch.uint8)
    ids = model.tokenizer(TEXTS)
    assert again.image_spec == model.image_spec
    assert torch.equal(again.tokenizer(TEXTS), ids)
    assert torch.equal(again.encode_image(pixels).pooled, model.encode_image(pixels).pooled)
    assert torch.equal(again.encode_text(ids).pooled, model.encode_text(ids).pooled)
    assert json.dumps(again.describe()) == json.dumps(model.describe())
    assert model_digest(again) == model_digest(model)
    assert model_digest(again.parts.text) == model_digest(model.parts.text)


def test_the_other_side_is_dropped(towers):
    model = compose(**names(towers, "own", "own"), join="none")
    whole = tether.load(towers / "own")
    pixels, ids = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), whole.tokenizer(TEXTS)
    torch.testing.assert_close(model.eval().encode_image(pixels).pooled, whole.encode_image(pixels).pooled)
    torch.testing.assert_close(model.encode_text(ids).pooled, whole.encode_text(ids).pooled)
    inside = [name for name, _ in model.parts.image.named_parameters()]
    assert inside
    assert not any(".text." in name for name in inside)


@pytest.mark.parametrize(("image", "text"), [("open_clip", "transformers"), ("transformers", "open_clip")])
def test_sides_of_wrapped_encoders(tmp_path, image, text):
    for name in (image, text):
        (tmp_path / name).mkdir()
    eyes, words = (ENCODERS[name](tmp_path / name) for name in (image, text))
    model = compose(image=str(tmp_path / image), text=str(tmp_path / text)).eval()
    again = tether.load(tether.save(model, tmp_path / "saved"))
    assert model_digest(again) == model_digest(model)
    pixels = torch.zeros(1, 3, *eyes.image_spec.size, dtype=torch.uint8)
    ids = words.tokenizer(TEXTS)
    assert torch.equal(again.tokenizer(TEXTS), ids)
    torch.testing.assert_close(again.before_maps().encode_image(pixels).pooled, eyes.encode_image(pixels).pooled)
    torch.testing.assert_close(again.before_maps().encode_text(ids).pooled, words.encode_text(ids).pooled)
    assert len(again.parts.text.state_dict()) < len(words.state_dict())


def test_what_no_tower_is_known_to_hold_is_refused():
    model = create("tiny")
    model.adapter = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match="adapter: not known as a part of either tower; known: visual, text, "):
        dual_tower(model, "image")


def test_the_digest_sees_how_towers_are_read(towers):
    """The same weights, read out in two ways, give other rows: caches and stores must not mix them."""
    given = names(towers, "vit", "bert")
    towers_of = [
        compose(image=given["image"], text={"name": given["text"], "output": output}).parts.text
        for output in ("cls", "mean")
    ]
    assert len({model_digest(tower) for tower in towers_of}) == 2
    cls, mean = (
        compose(image={"name": given["image"], "output": output}, text=given["text"]) for output in ("cls", "mean")
    )
    assert all(torch.equal(a, b) for a, b in zip(cls.state_dict().values(), mean.state_dict().values(), strict=True))
    assert model_digest(cls) != model_digest(mean)
    assert model_digest(torch.nn.Sequential(cls)) != model_digest(torch.nn.Sequential(mean))
    before = model_digest(cls)
    cls.parts.image.lock_("tuned")
    assert model_digest(cls) == before


@pytest.mark.parametrize("setting", [{"top": 2}, {"temperature": 3.0}, {"share": 0.1}])
def test_the_digest_sees_settings_of_maps(towers, setting):
    model = compose(**names(towers, "vit", "bert"))
    kind = {"kind": "class_names", "width": 32, "dim": 32, "classes": 4}
    one, other = (
        ComposedEncoder(model.parts.image, model.parts.text, image_map=kind | more, text_map=model.config["text_map"])
        for more in ({}, setting)
    )
    other.load_state_dict(one.state_dict())
    assert model_digest(one) != model_digest(other)


def test_towers_are_those_of_their_libraries(towers):
    from transformers import AutoModel

    model = compose(**names(towers, "vit", "bert"), join="none").eval()
    pixels = torch.rand(2, 3, 32, 32)
    vit, bert = (AutoModel.from_pretrained(towers / name).eval() for name in ("vit", "bert"))
    assert torch.allclose(model.image_features(pixels), vit(pixel_values=pixels).last_hidden_state[:, 0], atol=1e-6)
    ids = model.tokenizer(TEXTS)
    states = bert(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
    mean = torch.stack([states[0, :3].mean(0), states[1, : int((ids[1] != 0).sum())].mean(0)])
    assert torch.allclose(model.text_features(ids), mean, atol=1e-6)


@pytest.mark.parametrize(("given", "same"), [("cls", "cls"), ("mean", "mean"), ("max", "max")])
def test_sentence_transformers_pooling(towers, tmp_path, given, same):
    import shutil

    folder = tmp_path / "sentence"
    shutil.copytree(towers / "bert", folder)
    (folder / "1_Pooling").mkdir()
    old = {f"pooling_mode_{name}": name.startswith(given) for name in ("cls_token", "mean_tokens", "max_tokens")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(old))
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    listed = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(listed))
    model = compose(image=str(towers / "own"), text=str(folder)).eval()
    plain = compose(
        image=str(towers / "own"), text={"name": str(towers / "bert"), "output": same}, join="linear"
    ).eval()
    ids = model.tokenizer(TEXTS)
    expected = torch.nn.functional.normalize(plain.parts.text(ids), dim=1)
    assert torch.allclose(model.parts.text(ids), expected, atol=1e-6)


def test_locked_towers_rest(towers):
    model = compose(**names(towers, "vit", "bert"))
    model.train()
    assert not model.parts.image.inner.training
    assert model.parts.image_map.training
    learning = {name.split(".")[1] for name, value in model.named_parameters() if value.requires_grad}
    assert learning == {"image_map", "text_map", "logit_scale"}
    given = names(towers, "vit", "bert")
    tuned = compose(image={"name": given["image"], "train": "tuned"}, text=given["text"]).train()
    assert tuned.parts.image.inner.training
    assert all(value.requires_grad for value in tuned.parts.image.parameters())
    tuned.parts.image.lock_("locked")
    assert not any(value.requires_grad for value in tuned.parts.image.parameters())
    tuned.parts.image.lock_("tuned")  # a tower that another encoder had locked, such as starter's
    assert all(value.requires_grad for value in tuned.parts.image.parameters())


def test_a_recipe_names_towers(towers):
    given = names(towers, "vit", "bert")
    model = new_encoder(RunConfig(data="emoji", model={**given, "join": "mlp", "dim": 8}))
    assert model.dim == 8
    with pytest.raises(InputError, match=r"model: unknown key 'joint'.*'join'"):
        from_recipe({**given, "joint": "mlp"})
    with pytest.raises(InputError, match="expected 'text'"):
        from_recipe({"image": given["image"]})


@pytest.mark.parametrize(
    ("image", "text", "said"),
    [
        ("bert", "bert", "image: .*'bert' is a text tower; expected an image tower"),
        ("vit", "vit", "text: .*'vit' is an image tower; expected a text tower"),
        ({"name": "vit", "output": "pooler"}, "bert", "missing pooler"),
        ("vit", {"name": "bert", "output": "pooler"}, "gives no 'pooler'; known: cls, lasttoken, max, mean"),
        ({"name": "vit", "freeze": True}, "bert", "image: unknown key 'freeze'"),
        ({"name": "vit", "train": "frozen"}, "bert", "expected locked or tuned, got 'frozen'"),
    ],
)
def test_wrong_towers_are_named(towers, image, text, said):
    def full(spec):
        if isinstance(spec, str):
            return str(towers / spec)
        return {**spec, "name": str(towers / spec["name"])}

    with pytest.raises(InputError, match=said):
        compose(image=full(image), text=full(text))


def test_unknown_architectures_name_the_nearest_three(towers):
    with pytest.raises(InputError, match=r"no such architecture; the nearest: efficientnet_b0, (\w+), (\w+)$"):
        compose(image="timm:efficentnet_b0/x.safetensors", text=str(towers / "bert"))
    with pytest.raises(InputError, match="names no weights"):
        compose(image="timm:resnet18", text=str(towers / "bert"))
    with pytest.raises(InputError, match="weights of another architecture"):
        compose(image=f"timm:test_vit/{towers / 'convnext.safetensors'}", text=str(towers / "bert"))


def test_maps_that_do_not_fit_are_refused(towers, tmp_path):
    with pytest.raises(InputError, match="none: the tower gives rows of 32, the joint space has 8"):
        compose(**names(towers, "vit", "bert"), join="none", dim=8)
    with pytest.raises(InputError, match="join"):
        compose(**names(towers, "vit", "bert"), join="affine")
    tether.save(compose(**names(towers, "vit", "bert")), tmp_path)
    values = json.loads((tmp_path / "model.json").read_text())
    values["image"]["library"] = "pickle"
    (tmp_path / "model.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"model\.json: image: library: unknown 'pickle'"):
        tether.load(tmp_path)


def test_the_ridge_takes_rows_to_names():
    generator = torch.Generator().manual_seed(0)
    weight, names_of = torch.randn(20, 64, generator=generator), torch.randn(20, 8, generator=generator)
    names_of = names_of - names_of.mean(0)
    found = ridge_of_rows(weight, names_of, ridge=1e-9)
    assert torch.allclose((weight - weight.mean(0)) @ found.T, names_of, atol=1e-3)


def test_conse_is_the_mean_of_likely_names():
    found = ClassNameMap(4, 3, classes=4, top=2, temperature=1.0, share=0.0)
    with torch.no_grad():
        found.classifier.weight.copy_(torch.eye(4))
        found.classifier.bias.zero_()
        found.names.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]))
    mean = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).softmax(1)[0, :2]
    expected = torch.nn.functional.normalize(torch.tensor([[mean[0], mean[1], 0.0]]), dim=1)
    assert torch.allclose(found(torch.tensor([[3.0, 2.0, 1.0, 0.0]])), expected, atol=1e-6)


def test_a_store_may_name_starter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert near("starter", written_in=tmp_path / "store", again="--model NAME") == "starter"
    with pytest.raises(InputError, match="is not loaded unasked"):
        near("starters", written_in=tmp_path / "store", again="--model NAME")


def test_starter_without_its_weights(monkeypatch):
    monkeypatch.setattr(starter.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"tether-clip\[starter\]"):
        tether.load("starter")


def test_starter_with_other_weights(monkeypatch):
    monkeypatch.setitem(starter.SHA256, starter.IMAGE_FILE, "0" * 64)
    with pytest.raises(InputError, match=r"efficientnet-lite2.*weights with the SHA-256 9656.*expected 0000"):
        tether.load("starter")


def test_starter_knows_what_class_texts_say(monkeypatch, tmp_path):
    """Fitted from short texts here; a damaged cache is made again."""
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))
    full = starter.class_texts()
    assert len(full) == 1000
    gloss = "small golden or orange-red freshwater fishes of Eurasia used as pond or aquarium fishes"
    assert full[1] == ("a photo of a goldfish", f"goldfish: {gloss}")
    monkeypatch.setattr(starter, "encode_texts", lambda model, texts: _hashed(texts))
    first = tether.load("starter")
    (cached,) = tmp_path.glob("starter/*.safetensors")
    cached.write_bytes(b"damaged")
    again = tether.load("starter")
    assert torch.equal(first.parts.image_map.names, again.parts.image_map.names)
    assert cached.stat().st_size > 1000
    monkeypatch.undo()
    rows = encode_texts(first, ["a goldfish", "a fish in a bowl", "a typewriter"])
    unit = torch.nn.functional.normalize(rows, dim=1)
    assert unit[0] @ unit[1] > unit[0] @ unit[2]


def _hashed(texts):
    generator = torch.Generator().manual_seed(len(texts[0]))
    return torch.randn(len(texts), 384, generator=generator)
