"""Folders of models that are anyone's: no code runs, nothing unfit is fetched or built, errors name files."""

import builtins
import json
import shutil
import socket
from pathlib import Path

import pytest
import test_models_wrapped
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import encoders
import tether
from tether.core.errors import InputError, WriteError
from tether.core.state_file import write_state
from tether.models import create
from tether.models.convert.tokenizers import transformers_tokenizer
from tether.models.model_uri import near

pytestmark = pytest.mark.slow

EVIL = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nclass Evil: pass\n"
OPEN, CONFIG, OWN = "open_clip_config.json", "config.json", "model.json"
CODE = {"AutoTokenizer": ["evil.Evil", None], "AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*arguments, **named):
        pytest.fail("a network or a terminal was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(builtins, "input", refuse)


def _own(folder):
    tether.save(create("tiny", seed=1), folder)


def _open_clip_text(folder):
    test_models_wrapped._hugging_face_text(folder)
    _change(folder / OPEN, "model_cfg.text_cfg.hf_model_name", "text")


def _sharded(folder):
    tether.export(create("tiny", seed=1), folder, format="transformers")
    state = load_file(folder / "model.safetensors")
    parts = {"a.safetensors": sorted(state)[::2], "b.safetensors": sorted(state)[1::2]}
    for file, names in parts.items():
        save_file({name: state[name] for name in names}, folder / file)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


MAKERS = {
    "own": _own,
    "classic": lambda folder: tether.export(create("tiny", seed=1), folder, format="open_clip"),
    "clip": lambda folder: tether.export(create("tiny", seed=1), folder, format="transformers"),
    "sharded": _sharded,
    "siglip": encoders.transformers,
    "convnext": encoders.open_clip,
    "text": _open_clip_text,
    "sentences": encoders.sentence_transformers,
}
for _kind in ("siglip", "convnext", "text"):
    MAKERS[f"saved {_kind}"] = lambda folder, kind=_kind: tether.save(tether.load(_folder(kind)), folder)

_made: dict[str, Path] = {}
_place: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    _place[:] = [tmp_path_factory.mktemp("models")]
    _made.clear()


def _folder(kind: str) -> Path:
    if kind not in _made:
        folder = _place[0] / kind.replace(" ", "-")
        folder.mkdir()
        MAKERS[kind](folder)
        _made[kind] = folder
    return _made[kind]


@pytest.fixture
def copy(tmp_path):
    def make(kind: str) -> Path:
        return Path(shutil.copytree(_folder(kind), tmp_path / "model"))

    return make


def _change(path: Path, keys: str, value: object) -> None:
    """Set (or, for ``...``, remove) what stands under dotted keys in a JSON file."""
    values = json.loads(path.read_text()) if path.exists() else {}
    node = values
    *parents, last = keys.split(".")
    for key in parents:
        node = node.setdefault(key, {})
    if value is ...:
        del node[last]
    else:
        node[last] = value
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("kind", "file", "keys", "value", "message"),
    [
        ("text", OPEN, "model_cfg.text_cfg.tokenizer_kwargs", {"trust_remote_code": True}, "refused"),
        ("text", OPEN, "model_cfg.text_cfg.tokenizer_kwargs", {"cache_dir": "x"}, "is refused here"),
        ("text", "tokenizer_config.json", "tokenizer_class", "Evil", "'Evil' is not known here"),
        ("text", "tokenizer_config.json", "tokenizer_class", None, "auto_map names code"),
        ("text", "text/config.json", "model_type", "evil", "model_type: unknown 'evil'"),
        ("siglip", "tokenizer_config.json", "tokenizer_class", "Evil", "'Evil' is not known here"),
        ("siglip", "tokenizer_config.json", "tokenizer_class", None, "auto_map names code"),
        ("saved siglip", "tokenizer/tokenizer_config.json", "tokenizer_class", "Evil", "'Evil' is not known here"),
        ("saved text", OWN, "text_config.model_type", "evil", "model_type: unknown 'evil'"),
        ("saved text", "tokenizer/tokenizer_config.json", "tokenizer_class", None, "auto_map names code"),
    ],
)
def test_no_code_of_a_folder_runs(kind, file, keys, value, message, copy):
    folder = copy(kind)
    for place in (folder, folder / "text", folder / "tokenizer"):
        if place.is_dir():
            (place / "evil.py").write_text(EVIL)
    for path in (folder / "config.json", folder / "text/config.json", *folder.rglob("tokenizer_config.json")):
        if path.exists():
            _change(path, "auto_map", CODE)
    tether.load(folder)  # a class of transformers is named too, so the code is not needed
    _change(folder / file, keys, value)
    with pytest.raises(InputError, match=message) as caught:
        tether.load(folder)
    assert str(folder / file) in str(caught.value)
    assert not list(folder.rglob("ran"))


@pytest.mark.parametrize(
    ("kind", "file", "keys", "value", "message"),
    [
        ("convnext", OPEN, "model_cfg.vision_cfg.timm_model_name", "hf-hub:a/b", "timm's package"),
        ("saved convnext", OWN, "config.vision_cfg.timm_model_name", "hf-hub:a/b", "timm's package"),
        ("text", OPEN, "model_cfg.text_cfg.hf_model_name", "a/b", "a folder may not fetch it"),
        ("text", OPEN, "model_cfg.text_cfg.hf_model_name", "..", "a folder may not fetch it|Repo id"),
        ("saved text", OWN, "text_config", None, "expected the configuration of"),
        ("saved siglip", OWN, "config.text_config.attn_implementation", "a/b", None),
        ("convnext", OPEN, "model_cfg.vision_cfg.timm_model_pretrained", True, None),
        ("convnext", OPEN, "model_cfg.text_cfg.hf_tokenizer_name", "a/b", None),
    ],
)
def test_what_a_folder_names_is_not_fetched(kind, file, keys, value, message, copy):
    folder = copy(kind)
    _change(folder / file, keys, value)
    if message is None:
        model = tether.load(folder)
        if "tokenizer" in keys:
            with pytest.raises(InputError, match="holds none of tokenizer"):
                model.tokenizer(["a cat"])
        return
    with pytest.raises(InputError, match=message) as caught:
        tether.load(folder)
    assert str(folder / file) in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "file", "keys", "value"),
    [
        ("own", OWN, "model.vision.layers", 10**9),
        ("own", OWN, "model.vision.layers", 200),
        ("own", OWN, "model.text.vocabulary", 2**24),
        ("own", OWN, "model.text.context", 10**23),
        ("own", OWN, "model.vision.image.size", [10**9, 10**9]),
        ("own", OWN, "model.vision.image.size", ["a", None]),
        ("own", OWN, "model.vision.image.std", [0, 0, 0]),
        ("own", OWN, "model.vision.image.mean", {}),
        ("own", OWN, "model.vision.image.resize", "none"),
        ("own", OWN, "model.logit_scale", float("nan")),
        ("own", OWN, "model.logit_bias", "x"),
        ("own", OWN, "model.vision.block.rope_theta", 10**400),
        ("classic", OPEN, "model_cfg.vision_cfg.layers", 10**9),
        ("classic", OPEN, "model_cfg.vision_cfg.head_width", 0),
        ("classic", OPEN, "model_cfg.vision_cfg.mlp_ratio", 1e30),
        ("classic", OPEN, "model_cfg.vision_cfg.image_size", [[]]),
        ("classic", OPEN, "model_cfg.vision_cfg", None),
        ("classic", OPEN, "model_cfg.text_cfg.norm_kwargs", "x"),
        ("classic", OPEN, "model_cfg.init_logit_bias", "x"),
        ("classic", OPEN, "preprocess_cfg.mean", [1]),
        ("classic", OPEN, "preprocess_cfg", "x"),
        ("clip", CONFIG, "vision_config.hidden_size", None),
        ("clip", CONFIG, "vision_config.num_hidden_layers", 10**9),
        ("clip", CONFIG, "text_config.vocab_size", "x"),
        ("clip", CONFIG, "text_config", 3),
        ("clip", CONFIG, "vision_config.hidden_act", []),
        ("clip", "preprocessor_config.json", "image_mean", 3),
        ("clip", "preprocessor_config.json", "image_std", [None, 1, 1]),
        ("siglip", CONFIG, "vision_config.num_hidden_layers", 10**9),
        ("siglip", CONFIG, "vision_config.hidden_size", 64),
        ("siglip", CONFIG, "vision_config.image_size", 10**6),
        ("siglip", CONFIG, "vision_config.num_channels", 10**6),
        ("siglip", CONFIG, "text_config.vocab_size", 10**9),
        ("siglip", CONFIG, "text_config.max_position_embeddings", None),
        ("siglip", CONFIG, "text_config.num_attention_heads", 7),
        ("siglip", CONFIG, "text_config.hidden_act", "x"),
        ("siglip", CONFIG, "text_config", ...),
        ("convnext", OPEN, "model_cfg.embed_dim", None),
        ("convnext", OPEN, "model_cfg.vision_cfg.timm_model_name", "vit_giant_patch14_224"),
        ("convnext", OPEN, "model_cfg.vision_cfg.image_size", 10**9),
        ("convnext", OPEN, "model_cfg.text_cfg.layers", 10**9),
        ("convnext", OPEN, "model_cfg.text_cfg.context_length", 2**24),
        ("convnext", OPEN, "model_cfg.multimodal_cfg", {"layers": 10**9}),
        ("saved convnext", OWN, "config.text_cfg.width", "x"),
        ("saved convnext", OWN, "pad", 10**9),
        ("saved siglip", OWN, "config.vision_config.num_hidden_layers", 10**9),
        ("saved siglip", OWN, "config.text_config.vocab_size", [1]),
        ("saved text", OWN, "text_config.num_hidden_layers", 10**9),
        ("saved text", OWN, "text_config.max_position_embeddings", 2**24),
        ("sharded", "model.safetensors.index.json", "weight_map.logit_scale", "../../x.safetensors"),
        ("sharded", "model.safetensors.index.json", "weight_map.logit_scale", "model.safetensors.index.json"),
        ("sharded", "model.safetensors.index.json", "weight_map.logit_scale", "gone.safetensors"),
        ("sharded", "model.safetensors.index.json", "weight_map.logit_scale", 3),
        ("siglip", "tokenizer.json", "model", {"type": "BPE", "vocab": 3, "merges": [3]}),
        ("siglip", "tokenizer.json", "added_tokens", [{"id": -1}]),
        ("siglip", "tokenizer_config.json", "model_max_length", float("nan")),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_built(kind, file, keys, value, copy, monkeypatch):
    folder = copy(kind)
    _change(folder / file, keys, value)
    built, calls = torch.nn.Module.load_state_dict, []
    monkeypatch.setattr(
        torch.nn.Module, "load_state_dict", lambda self, *a, **k: (calls.append(self), built(self, *a, **k))[1]
    )
    with pytest.raises(InputError) as caught:
        tether.load(folder)
    assert str(folder) in str(caught.value)
    assert all(value.is_meta for model in calls for value in model.parameters())


@pytest.mark.parametrize("kind", ["own", "classic", "clip", "siglip", "convnext"])
def test_random_weights_are_bounded_too(kind, copy):
    folder = copy(kind)
    next(folder.glob("*.safetensors")).unlink()
    assert tether.load(folder, random_weights=True).dim > 0
    file, keys, size = {
        "own": (OWN, "model.text.hidden", 2**24),
        "clip": (CONFIG, "text_config.intermediate_size", 2**24),
        "siglip": (CONFIG, "text_config.intermediate_size", 2**24),
    }.get(kind, (OPEN, "model_cfg.text_cfg.mlp_ratio", 2**17))
    _change(folder / file, keys, size)
    with pytest.raises(InputError, match="bytes that no file of weights bears out"):
        tether.load(folder, random_weights=True)


def _header(change):
    def damage(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + length :]

    return damage


DAMAGE = {
    "a header of 2^63 bytes": lambda data: (2**63).to_bytes(8, "little") + data[8:],
    "a header of 99 MB": lambda data: (99 * 2**20).to_bytes(8, "little") + data[8:],
    "no header": lambda data: data[:4],
    "bytes in excess": lambda data: data + bytes(100),
    "overlapping": _header(lambda h: h["log_logit_scale"].update(data_offsets=[4, 8])),
    "a shape that is no number": _header(lambda h: h["log_logit_scale"].update(shape=[float("nan")])),
    "a shape beyond the bytes": _header(lambda h: h["log_logit_scale"].update(shape=[2**40, 2**40])),
    "whole numbers": _header(lambda h: h["log_logit_scale"].update(dtype="I32")),
    "an unknown type": _header(lambda h: h["log_logit_scale"].update(dtype="X9")),
    "no shape": _header(lambda h: h["log_logit_scale"].pop("shape")),
    "deep": lambda data: (60_000).to_bytes(8, "little") + b'{"a":' * 12_000 + data,
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_header_is_refused(damage, copy):
    path = copy("own") / "model.safetensors"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(InputError, match=r"model\.safetensors: "):
        tether.load(path.parent)


def test_a_tokenizer_that_panics(copy, monkeypatch):
    import transformers

    class PanicException(BaseException):
        pass

    def panic(*arguments, **named):
        raise PanicException("index out of bounds")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", panic)
    with pytest.raises(InputError, match="its tokenizer could not be loaded: PanicException: index out of bounds"):
        tether.load(copy("siglip"))


def test_a_tokenizer_whose_longest_text_is_no_number(copy):
    path = copy("siglip") / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": "../../etc/passwd"}))
    with pytest.raises(InputError, match="its tokenizer could not be loaded: ValueError"):
        tether.load(path.parent)


def test_a_tokenizer_that_multiplies_its_text(tmp_path):
    replace = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
    write_tokenizer(tmp_path, normalizer={"type": "Sequence", "normalizers": [replace, replace]})
    with pytest.raises(InputError, match=r"tokenizer\.json: its replacements make texts more than 1024 times as long"):
        transformers_tokenizer(tmp_path, context=77, vocabulary=100)
    write_tokenizer(tmp_path, normalizer={**replace, "content": "aa"})
    assert transformers_tokenizer(tmp_path, context=77, vocabulary=100)(["a"]).shape[0] == 1


def write_tokenizer(folder, *, normalizer):
    model = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"}
    (folder / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "added_tokens": [], "normalizer": normalizer, "model": model})
    )
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_ids_of_another_model(copy):
    folder = copy("siglip")
    _change(folder / "tokenizer.json", "model.vocab.cat", 64)
    model = tether.load(folder)
    with pytest.raises(InputError, match="gave ids 1 to 64, the model has 64; it belongs to another model"):
        model.tokenizer(["cat"])


@pytest.mark.parametrize("name", ["~nouser/model", "a" * 5000, "a\0b", "open_clip:ViT-B-32/~nouser/x.safetensors"])
def test_names_that_no_folder_has(name):
    with pytest.raises(InputError, match="no such"):
        tether.load(name)


@pytest.mark.parametrize(
    "kind", ["own", "classic", "clip", "sharded", "siglip", "convnext", "saved siglip", "sentences"]
)
def test_only_the_files_of_a_model_are_fetched(kind, tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    source = _folder(kind)
    files = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    others = {"evil.py", "pytorch_model.bin", "x/evil.py", "c.json", "fp16/model.safetensors", "onnx.safetensors"}
    if kind in ("clip", "siglip"):
        others |= {"open_clip_model.safetensors", "model-00001-of-00002.safetensors"}
    local = tmp_path / "snapshots" / "commit"
    asked = []

    def download(name, *, allow_patterns, revision=None):
        assert revision in (None, "commit")
        for file in filter_repo_objects(files | others, allow_patterns=allow_patterns):
            (local / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / file, local / file)
            asked.append(file)
        return str(local)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    tether.load("hf:someone/thing")
    assert sorted(asked) == sorted(files)


@pytest.mark.parametrize(
    ("name", "followed"),
    [
        ("runs/demo", True),
        ("runs/own", "{beside}/runs/own"),
        ("runs/gone", False),
        ("{place}/runs/demo", True),
        ("{beside}/model", True),
        ("{beside}", True),
        ("../other", False),
        ("/net/evil/model", False),
        ("{beside}/../x", False),
        ("hf:someone/thing", False),
        ("open_clip:ViT-B-32/openai", False),
        ("~/model", False),
    ],
)
def test_a_name_in_a_store_is_followed_to_folders_beside_it(name, followed, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", "/somebody")
    places = {"place": tmp_path / "here", "beside": tmp_path / "stores"}
    for folder in ("here/runs/demo", "stores/model", "stores/runs/own", "x", "other"):
        (tmp_path / folder).mkdir(parents=True)
    name = name.format(**places)
    store, again = tmp_path / "stores" / "db", "tether search db --model NAME"
    if followed:
        expected = name if followed is True else followed.format(**places)
        assert near(name, written_in=store, again=again) == expected
        return
    with pytest.raises(InputError, match="not loaded unasked") as caught:
        near(name, written_in=store, again=again)
    assert f"tether search db --model {name}".replace("~/model", "'~/model'") in str(caught.value)


def test_search_and_resume_do_not_follow_names_on_a_hub(tmp_path, capsys):
    import pyarrow as pa

    from tether.cli import main
    from tether.tasks.retrieve.store import Store

    schema = pa.schema(
        {"key": pa.string(), "embedding": pa.list_(pa.float32(), 4)}, metadata={"tether.model": "hf:someone/thing"}
    )
    Store.create(tmp_path / "db", schema=schema)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("data: emoji\nmodel: {load: 'hf:someone/thing'}\n")
    for arguments, again in (
        (["search", str(tmp_path / "db"), "cat"], f"tether search {tmp_path / 'db'} --model hf:someone/thing"),
        (["train", "--resume", "--out", str(run)], f"tether train --out {run} --resume model.load=hf:someone/thing"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert again in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("what", ["weights", "state", "tokenizer"])
def test_a_full_disk_names_the_file(what, tmp_path, monkeypatch):
    import safetensors.numpy
    import safetensors.torch

    def full(*arguments, **named):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    if what == "weights":
        path, write = tmp_path / "model.safetensors", lambda: tether.save(create("tiny"), tmp_path)
    elif what == "state":
        path = tmp_path / "state.safetensors"

        def write():
            write_state(path, format="a 1", settings={}, arrays={"a": 1.0})
    else:
        monkeypatch.undo()
        model = tether.load(_folder("siglip"))
        model.tokenizer.write = full
        path, write = tmp_path / "tokenizer", lambda: tether.save(model, tmp_path)
    with pytest.raises(WriteError, match=f"{path}: could not be written: .*No space left") as caught:
        write()
    assert "unchanged" in str(caught.value)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
