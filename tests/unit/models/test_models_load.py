"""Models by name, on disk: what comes back, and what every broken input says."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

import tether
from tether.core.errors import InputError
from tether.models import create
from tether.models.save import write_config


@pytest.fixture
def folder(tmp_path):
    return tether.save(create("tiny", seed=2, text={"layers": 1}), tmp_path / "model")


def _same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_own_model_round_trip(folder):
    model = tether.load(folder)
    assert _same(model, create("tiny", seed=2, text={"layers": 1}))
    assert not model.training
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    assert _same(tether.load(str(folder / "model.safetensors")), model)
    half = tether.load(folder, dtype=torch.bfloat16)
    assert half.visual.position.dtype == torch.bfloat16


def test_block_options_survive(tmp_path):
    block = {"norm": "rms", "attn_norm": ["pre", "out"], "qkv_norm": "qk", "activation": "swiglu", "norm_eps": 1e-6}
    model = create("tiny", seed=2, block=block, logit_bias=-10.0, image_size=(16, 24))
    again = tether.load(tether.save(model, tmp_path))
    assert again.config == model.config
    assert again.logit_bias.item() == -10
    assert _same(again, model)


def test_a_run_that_is_not_finished_gives_its_newest_checkpoint(tmp_path):
    old, new = create("tiny", seed=1), create("tiny", seed=2)
    write_config(new, tmp_path)
    for step, model in ((200, old), (1000, new)):
        path = tmp_path / "checkpoints" / f"step-{step:08d}"
        path.mkdir(parents=True)
        save_file(model.state_dict(), path / "model.safetensors")
    assert _same(tether.load(tmp_path), new)
    assert _same(tether.load(tmp_path / "checkpoints" / "step-00000200"), old)


def test_seed_decides_the_weights():
    state = torch.get_rng_state()
    assert _same(create("tiny", seed=4), create("tiny", seed=4))
    assert not _same(create("tiny", seed=4), create("tiny", seed=5))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["tiny", "open_clip:ViT-S-32"])
def test_no_weights_is_an_error_unless_asked_for(name):
    with pytest.raises(InputError, match="random weights"):
        tether.load(name)
    model = tether.load(name, random_weights=True)
    assert all(torch.isfinite(value).all() for value in model.parameters())


def test_random_weights_for_a_wrapped_architecture():
    state = torch.get_rng_state()
    model = tether.load("open_clip:convnext_tiny", random_weights=True)
    assert type(model).__name__ == "OpenClipEncoder"
    assert model.dim == 1024
    assert torch.equal(torch.get_rng_state(), state)


def test_a_description_without_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model.safetensors: no such file; the model has no weights"):
        tether.load(folder)
    assert tether.load(folder, random_weights=True).dim == 64


def test_truncated_weights_name_the_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"model\.safetensors: truncated or not a safetensors file"):
        tether.load(folder)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"model\.safetensors: truncated"):
        tether.load(folder)


def test_weights_of_another_architecture(folder):
    path = folder / "model.safetensors"
    save_file(create("tiny", text={"layers": 2}).state_dict(), path)
    with pytest.raises(InputError, match=r"model\.safetensors: .*another architecture: unexpected text\.blocks\.1"):
        tether.load(folder)
    save_file(create("tiny", vision={"layers": 3}, text={"layers": 1}).state_dict(), path)
    with pytest.raises(InputError, match=r"unexpected visual\.blocks\.2\..* and \d+ more"):
        tether.load(folder)
    save_file(create("tiny", dim=32, text={"layers": 1}).state_dict(), path)
    with pytest.raises(InputError, match=r"visual\.projection\.weight is \(32, 64\), expected \(64, 64\)"):
        tether.load(folder)


@pytest.mark.parametrize("suffix", ["pt", "bin", "safetensors"])
def test_a_pickle_is_refused_whatever_its_name(folder, tmp_path, suffix):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "trap"), "w"))

    for write in (lambda file: file.write_bytes(pickle.dumps(Trap())), lambda file: torch.save({"a": Trap()}, file)):
        file = folder / "model.safetensors" if suffix == "safetensors" else tmp_path / f"weights.{suffix}"
        write(file)
        for name in (folder if suffix == "safetensors" else file, f"open_clip:ViT-S-32/{file}"):
            with pytest.raises(InputError, match=f"{file.name}: a pickle, which runs code when opened"):
                tether.load(name)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("library", ["open_clip", "transformers"])
def test_pickled_weights_in_another_library_s_folder(tmp_path, library):
    tether.export(create("tiny"), tmp_path, format=library)
    weights = next(tmp_path.glob("*.safetensors"))
    weights.rename(tmp_path / ("open_clip_pytorch_model.bin" if library == "open_clip" else "pytorch_model.bin"))
    with pytest.raises(InputError, match=r"pytorch_model\.bin: a pickle"):
        tether.load(tmp_path)


@pytest.mark.parametrize("library", ["open_clip", "transformers"])
def test_broken_folders_of_other_libraries(tmp_path, library):
    tether.export(create("tiny"), tmp_path, format=library)
    weights = next(tmp_path.glob("*.safetensors"))
    state = load_file(weights)
    first = sorted(state)[0]
    save_file({name: value for name, value in state.items() if name != first} | {"odd": torch.zeros(1)}, weights)
    with pytest.raises(InputError, match=f"{weights.name}: .*another architecture: missing {first}; unexpected odd"):
        tether.load(tmp_path)
    weights.unlink()
    with pytest.raises(InputError, match="random weights must be asked for"):
        tether.load(tmp_path)
    assert tether.load(tmp_path, random_weights=True).dim == 64


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such/folder", "no/such/folder: no such model; expected a folder"),
        ("open_clip:ViT-B-33/openai", "unknown architecture; did you mean 'ViT-B-32'"),
        ("open_clip:ViT-B-32/laion3b", "unknown weights; did you mean 'laion2b"),
        ("open_clip:ViT-B-32/gone.safetensors", r"gone\.safetensors: no such file"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(InputError, match=message):
        tether.load(name)


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(InputError, match=r"holds no model\.json, open_clip_config\.json or config\.json"):
        tether.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"config\.json: model_type 'bert' is not known here; known: align, altclip, "):
        tether.load(tmp_path)


def test_sharded_transformers_weights(tmp_path):
    tether.export(create("tiny", seed=8), tmp_path, format="transformers")
    state = load_file(tmp_path / "model.safetensors")
    names = sorted(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, some in parts.items():
        save_file({name: state[name] for name in some}, tmp_path / file)
    index = {"weight_map": {name: file for file, some in parts.items() for name in some}}
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert _same(tether.load(tmp_path), create("tiny", seed=8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, r"model\.json: expected 'format': 'tether-clip'"),
        ({"version": 99}, r"model\.json: version 99; this tether reads version 1"),
        ({"model": {"dims": 3}}, r"model\.json: unknown key 'dims'; did you mean 'dim'"),
        (
            {"model": {"vision": {"width": "wide"}}},
            r"model\.json\.vision\.width: expected a whole number",
        ),
        ({"model": {"vision": {"patch": 7}}}, r"model\.json\.vision\.patch: expected a divisor of the image size"),
        ({"model": {"text": {"end": 99_999}}}, r"model\.json\.text\.end: expected an id below vocabulary"),
        ({"model": 3}, r"model\.json: expected a mapping, got 3"),
    ],
)
def test_a_broken_description(folder, change, message):
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        tether.load(folder)


def test_other_modules_are_not_saved(tmp_path):
    with pytest.raises(InputError, match=r"save: expected a model of tether\.load or create, got Linear"):
        tether.save(torch.nn.Linear(2, 2), tmp_path)
    with pytest.raises(InputError, match=r"export: expected a model of tether\.load or create, got Linear"):
        tether.export(torch.nn.Linear(2, 2), tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "huge"}, "unknown size 'huge'; known: base, eva-clip-18b, "),
        ({"widht": 3}, "model: unknown key 'widht'"),
        ({"vision": {"block": {"atention": "x"}}}, r"model\.vision\.block: unknown key 'atention'; did you mean"),
        ({"image_size": 30}, "patch: expected a divisor of the image size"),
        ({"block": {"qkv_norm": 3}}, "qkv_norm: expected str, got 3"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        create(**settings)


def test_a_model_without_an_image_tower_is_named(tmp_path, monkeypatch):
    from tether.models.encoders import load_open_clip

    cfg = {"embed_dim": 512, "audio_cfg": {"model_type": "HTSAT"}, "text_cfg": {"context_length": 77}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg}))
    monkeypatch.setattr(load_open_clip, "_known_config", lambda architecture: cfg)
    for name in ("open_clip:HTSAT-tiny/tag", tmp_path):
        with pytest.raises(InputError, match=r"json: model_cfg\.audio_cfg: a model of sounds; tether takes images"):
            tether.load(name)
