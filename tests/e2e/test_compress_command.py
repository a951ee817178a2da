"""``tether compress``: from a folder to a folder that opens, its report, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tether
from tether.compression.protect import Obfuscator
from tether.compression.quantise import Octav
from tether.compression.quantise.packed import PACKED_FILE, load_packed_
from tether.core.errors import InputError
from tether.models import create
from tether.workflows.compress import NO_SPEED, compress
from tether.workflows.protect import restored


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tether.save(create("tiny", seed=3), tmp_path_factory.mktemp("model") / "tiny")


def test_a_folder_is_rounded_measured_and_opens(model: Path, tmp_path: Path, call) -> None:
    out = tmp_path / "small"
    done = call("compress", model, "--edit", "octav,bits=4,include=[q,v]", "--out", out, "--limit", 12)
    assert NO_SPEED in done.out
    assert "R@10" in done.out
    sizes = [value.numel() for value in create("tiny", seed=3).parameters()]
    count = sum(place.weight.numel() for place in Octav(include=("q", "v")).places(create("tiny", seed=3)))
    assert f"rounded: {count:,} of {sum(sizes):,} weights" in done.out  # few, so that few bytes are saved
    report = json.loads((out / "compress.json").read_text())
    assert report["edits"] == [{"name": "octav", "bits": 4, "include": ["q", "v"]}]
    for when in ("before", "after"):
        assert report[when]["text_to_image_r10_low"] <= report[when]["text_to_image_r10"]
        assert report[when]["text_to_image_r10_chance"] > 0
    assert report["bytes_packed"] == (out / PACKED_FILE).stat().st_size < report["bytes_after"]
    expected = create("tiny", seed=3)
    edit = Octav(bits=4, include=("q", "v"))
    edit.merge_(edit.apply_(expected))
    opened = tether.load(out)
    packed = load_packed_(create("tiny", seed=0), out / PACKED_FILE)
    for name, value in expected.state_dict().items():
        assert torch.equal(opened.state_dict()[name].cpu(), value)
        assert torch.equal(packed.state_dict()[name], value)
    assert not list(out.glob(".new*"))
    again = call("compress", model, "--edit", "octav", "--out", out, "--limit", 12, code=2)
    assert "is there already" in again.err
    call("compress", model, "--edit", "octav,bits=2", "--out", out, "--limit", 12, "--existing", "replace")
    assert json.loads((out / "compress.json").read_text())["edits"][0]["bits"] == 2


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([], "--edit: expected at least one"),
        (["octave"], "unknown part 'octave'; did you mean 'octav'"),
        ([{"name": "octav", "bits": 1}], "bits"),
        ([{"name": "octav", "bit": 4}], "bit"),
        (["octav,bits"], "--edit: expected key=value, got 'bits'"),
        (["octav,include=[q"], "--edit: brackets do not match"),
        (["octav,bits=4,layers=[0,9]"], "edit octav: layers: expected -2 to 1, got 9"),
    ],
)
def test_edits_that_there_are_not(edits: list, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        compress(create("tiny"), edits, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no compressed model"):
        compress(create("tiny"), ["octav"], out=tmp_path)
    with pytest.raises(InputError, match=r"--calibrate: .* is what is measured on as well"):
        compress(create("tiny"), ["octav"], out=tmp_path / "new", calibrate="emoji:split=test")


@pytest.mark.parametrize("moved", [[], ["model.safetensors"], ["model.safetensors", "model.json"]])
def test_what_a_killed_process_left_is_written_anew(moved: list[str], tmp_path: Path) -> None:
    out, new = tmp_path / "out", tmp_path / "out" / ".new-ab12_cde"
    new.mkdir(parents=True)
    for name in (".lock", ".lock.json"):
        (out / name).touch()
    for name in ("model.safetensors", "model.json", "compress.json"):
        (out / name if name in moved else new / name).touch()
    existing = "replace" if "model.json" in moved else "refuse"
    if existing == "replace":
        with pytest.raises(InputError, match="is not empty and holds no compressed model"):
            compress(create("tiny"), ["octav"], out=out, limit=4)
    compress(create("tiny"), ["octav"], out=out, limit=4, existing=existing)
    assert not new.exists()
    tether.load(out)


def test_a_folder_of_a_like_name_is_no_leftover(tmp_path: Path) -> None:
    compress(create("tiny"), ["octav"], out=tmp_path, limit=4)
    (tmp_path / ".new-ideas").mkdir()
    (tmp_path / ".new-ideas" / "mine").touch()
    compress(create("tiny"), ["octav"], out=tmp_path, limit=4, existing="replace")
    assert (tmp_path / ".new-ideas" / "mine").exists()


def test_a_key_that_came_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "key.safetensors"
    fit = Obfuscator.fit
    monkeypatch.setattr(Obfuscator, "fit", lambda self, batches: [fit(self, batches), key.write_text("another's")][0])
    with pytest.raises(InputError, match="a key is never replaced"):
        compress(create("tiny"), protect=key, calibrate="emoji:split=train", rows=8, out=tmp_path / "out", limit=4)
    assert key.read_text() == "another's"


def test_weights_that_are_not_finite_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    broken = create("tiny")
    with torch.no_grad():
        broken.visual.blocks[0].up.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"edit octav: image\.blocks\.0\.up: holds weights that are NaN"):
        compress(broken, ["octav"], out=tmp_path / "out", limit=4)
    assert not (tmp_path / "out" / "model.json").exists()


def test_a_result_takes_neither_the_models_place_nor_the_keys(model: Path, tmp_path: Path, call) -> None:
    whole = {one.name: one.read_bytes() for one in model.iterdir()}
    done = call("compress", model, "--edit", "octav", "--out", model, "--existing", "replace", code=2)
    assert "is MODEL, too" in done.err
    inside = tmp_path / "out" / "model.json"
    given = ("--edit", "octav", "--out", tmp_path / "out", "--json", inside)
    assert "has a report of its own" in call("compress", model, *given, code=2).err.replace("\n", " ")
    key = tmp_path / "key.safetensors"
    key.write_bytes(b"the only one")
    protect = ("--protect", key, "--calibrate", "emoji:split=validation", "--out", tmp_path / "out")
    done = call("compress", model, *protect, "--existing", "replace", code=2)
    assert "a key is never replaced" in done.err.replace("\n", " ")
    assert key.read_bytes() == b"the only one"
    assert {one.name: one.read_bytes() for one in model.iterdir()} == whole
    assert not (tmp_path / "out").exists()


def test_restoring_leaves_the_copy_where_it_is(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tether.workflows import compress as workflow

    key, public, seen = tmp_path / "key", tmp_path / "public", list[Path]()

    def saved(one: torch.nn.Module, folder: str | Path) -> Path:
        seen.append(Path(folder))
        return tether.save(one, folder)

    monkeypatch.setattr(workflow, "save", saved)
    given = {"share": 0.01, "calibrate": "emoji:split=validation", "rows": 4, "limit": 6}
    compress(model, out=public, protect=key, **given)
    inside = [one for one in seen if one.is_relative_to(public)]
    assert len(inside) == 1 < len(seen), "the true weights are measured elsewhere"
    with pytest.raises(InputError, match="is MODEL, too"):
        restored(str(public), key, out=public, existing="replace")


def test_repair_and_pruning_say_what_they_did(model: Path, tmp_path: Path, call) -> None:
    edits = ("--edit", "gate_norm,n=1", "--edit", "octav,bits=2", "--edit", "norm_tweak,lr=0.001")
    shared = ("--data", "emoji:split=test", "--limit", 12, "--out", tmp_path / "small")
    assert "looks at data; expected --calibrate DATA" in call("compress", model, *edits, *shared, code=2).err
    idle = call("compress", model, *edits, "--share", 0.01, *shared, code=2).err
    assert "does nothing with --edit alone" in idle
    alone = call("compress", model, "--edit", "octav", "--rows", 4, *shared, code=2).err
    assert "does nothing without --calibrate" in alone.replace("\n", " ")
    same = call("compress", model, *edits, "--calibrate", "emoji:split=test", *shared, code=2).err
    assert "is what is measured on as well" in same
    done = call("compress", model, *edits, "--calibrate", "emoji:split=validation", "--rows", 4, *shared)
    assert "norm_tweak: image: over 2 layers and 4 sequences" in done.out
    assert "gate_norm: no attention in image.blocks." in done.out
    opened = tether.load(tmp_path / "small")
    assert len(opened.config.vision.without_attention) == len(opened.config.text.without_attention) == 1
    assert load_packed_(opened, tmp_path / "small" / PACKED_FILE) is opened


def test_a_copy_is_protected_and_made_whole_by_its_key_alone(model: Path, tmp_path: Path, call) -> None:
    key, public = tmp_path / "mine.key.safetensors", tmp_path / "public"
    shared = ("--share", 0.01, "--limit", 12, "--rows", 6, "--out", public)
    assert (
        "--protect: looks at data; expected --calibrate"
        in call("compress", model, "--protect", key, *shared, code=2).err
    )
    given = ("--protect", key, "--calibrate", "emoji:split=validation", *shared)
    inside = call("compress", model, *given[2:], "--protect", public / "key.safetensors", code=2).err
    assert "which is what others get" in inside.replace("\n", " ")
    done = call("compress", model, *given)
    assert "weights changed" in done.out
    assert "the key brings it back bit for bit" in done.out
    assert not key.is_relative_to(public)
    report = json.loads((public / "compress.json").read_text())
    assert report["edits"] == [{"name": "protect", "share": 0.01}]
    assert "is there already" in call("compress", model, *given, code=2).err
    original, copy = (tether.load(one).state_dict() for one in (model, public))
    assert any(not torch.equal(copy[name], value) for name, value in original.items())
    whole = tmp_path / "whole"
    assert "bit for bit" in call("compress", public, "--restore", key, "--out", whole).out
    for name, value in tether.load(whole).state_dict().items():
        assert torch.equal(original[name], value)
    other = tether.save(create("tiny", seed=4), tmp_path / "other")
    refused = call("compress", other, "--restore", key, "--out", tmp_path / "none", code=2).err
    assert "belongs to another model: expected digest" in refused.replace("\n", " ")
    assert not (tmp_path / "none" / "model.json").exists()
    both = call("compress", public, "--restore", key, "--edit", "octav", "--out", whole, code=2).err
    assert "does nothing with --restore" in both
    gone = call("compress", public, "--restore", tmp_path / "no", "--out", whole / "x", code=2).err
    assert "no such file; expected the key" in gone.replace("\n", " ")


@pytest.mark.parametrize(("low", "said"), [(0.5, True), (0.1, False)])
def test_a_copy_that_still_finds_texts_is_said_to_be_of_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: float, said: bool
) -> None:
    from tether.workflows import compress as workflow

    name = "image_to_text_r10"
    has = {"images": 6.0, name: 0.656, f"{name}_low": low, f"{name}_high": 0.8, f"{name}_chance": 0.156}
    monkeypatch.setattr(workflow, "measured", lambda *_, **__: has)
    given = {"protect": tmp_path / "key", "share": 0.01, "calibrate": "emoji:split=validation", "rows": 4}
    lines = compress(create("tiny", seed=3), out=tmp_path / "out", **given).report.lines()
    told = [line for line in lines if "NOT useless: image to text R@10 65.6 %" in line and "chance 15.6 %" in line]
    assert bool(told) is said
    assert any("not shown to be above chance on --data before" in line for line in lines) is not said


def test_rounded_weights_are_not_packed_beside_a_protected_copy(tmp_path: Path) -> None:
    given = {"protect": tmp_path / "key.safetensors", "share": 0.01, "calibrate": "emoji:split=validation", "rows": 4}
    compress(create("tiny", seed=3), ["octav"], out=tmp_path / "out", limit=6, **given)
    assert not (tmp_path / "out" / PACKED_FILE).exists()
