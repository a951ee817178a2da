"""A run's folder: one process at a time, begun again where nothing was finished, and damage named."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tether.core.errors import InputError, LockedError, StoppedError, TetherError, WriteError
from tether.core.model_digest import file_digest
from tether.data.bad_rows import BadRows
from tether.models.convert.saved_files import write_weights
from tether.training import load_config, train
from tether.training.checkpoints import list_checkpoints
from tether.training.claim import _differences, check_recorded
from tether.training.metrics_log import Logbook, read_metrics
from tether.training.result import read_result
from tether.training.seal import KEY, sealed
from tether.workflows.clipper_comparison import compare as own_run

pytestmark = pytest.mark.slow


def full(*_: object, **__: object) -> None:
    raise SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.fixture
def config(tmp_path):
    for name in ("red", "blue"):
        Image.new("RGB", (32, 32), name).save(tmp_path / f"{name}.png")
    (tmp_path / "pairs.csv").write_text("filepath,title\nred.png,one\nblue.png,two\n")

    def made(*more: str):
        small = "model={vision: {layers: 1}, text: {layers: 1}}"
        given = [f"data={tmp_path / 'pairs.csv'}", "size=tiny", "batch_size=2", "precision=fp32", "threads=1", small]
        return load_config(overrides=[*given, "vocabulary=used", "steps=3", "save_every=2", *more])

    return made


@pytest.fixture
def stopped(config, tmp_path) -> Path:
    """A run with a checkpoint of its first step."""
    with pytest.raises(StoppedError):
        train(config(), folder=tmp_path / "run", should_stop=lambda: True)
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "TETHER_TOKEN"])
def test_no_file_of_a_run_holds_a_secret_of_the_environment(config, tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "hush-4711")
    train(config(), folder=tmp_path / "run")
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"environment.json", "config.yaml", "metrics.jsonl", "summary.json"} <= {path.name for path in written}
    assert not [path for path in written if b"hush-4711" in path.read_bytes()]


def test_what_a_killed_or_failed_try_left_is_no_obstacle_even_to_other_settings(config, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(InputError, match="only 2 good rows"):
        train(config("batch_size=4"), folder=run)
    assert not run.exists()
    with (tmp_path / "pairs.csv").open("a") as file:
        file.write("none.png,three\n")
    with pytest.raises(InputError, match="bad row"):
        train(config("strict=true"), folder=run)
    with pytest.raises(ZeroDivisionError):
        train(config(), folder=run, should_stop=lambda: 1 // 0)
    for name in (".config.yaml.abcdefgh.tmp", ".metrics.jsonl.abcdefgh.tmp", "bad_rows.jsonl"):
        (run / name).write_text("half")
    (run / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n{"st')
    (run / "checkpoints" / ".saving-step-00000002").mkdir(parents=True)
    train(config("seed=1"), folder=run)
    assert [record["step"] for record in read_metrics(run / "metrics.jsonl")] == [0, 1, 2]
    assert not [path for path in run.glob("bad_rows.jsonl") if "half" in path.read_text()]
    assert not [path for path in run.rglob(".*") if path.name != ".lock"]


def test_files_of_another_kind_are_never_taken_for_a_run(config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("defaults: [model]\n")
    with pytest.raises(InputError, match=r"config\.yaml: unknown key 'defaults'"):
        train(config(), folder=tmp_path / "run")


def test_the_second_process_is_refused(config, tmp_path, holder):
    with (
        holder(tmp_path / "run", "tether train") as pid,
        pytest.raises(LockedError, match=rf"process {pid} on .*tether train"),
    ):
        train(config(), folder=tmp_path / "run")
    assert train(config(), folder=tmp_path / "run").steps == 3


def test_a_full_disk_is_one_message_that_says_what_is_safe(config, stopped, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("tether.training.checkpoints.save_file", full)
        with pytest.raises(TetherError) as told:
            train(config(), folder=stopped, resume=True)
    lines = str(told.value).splitlines()
    assert lines[0].startswith(f"{stopped}/checkpoints/step-00000002: could not be written: ")
    assert lines[0].endswith("No space left on device (os error 28); earlier checkpoints stand")
    again = f"go on with: tether train --resume --out {stopped}"
    assert lines[1:] == [f"the newest checkpoint is step-00000001; when there is room, {again}"]
    assert train(config(), folder=stopped, resume=True).steps == 3


def damaged_tensors(name: str, change):
    def damage(checkpoint: Path) -> None:
        file = checkpoint / f"{name}.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)
        damaged_state(lambda state: state["files"].update({name: file_digest(file)}))(checkpoint)

    return damage


def damaged_state(change):
    """A state whose digest is right, as one from somebody else may be."""

    def damage(checkpoint: Path) -> None:
        state = json.loads((checkpoint / "state.json").read_text())
        del state[KEY]
        change(state)
        (checkpoint / "state.json").write_text(json.dumps(sealed(state)))

    return damage


def flipped(name: str):
    def damage(checkpoint: Path) -> None:
        data = bytearray((checkpoint / name).read_bytes())
        data[len(data) // 2] ^= 1
        (checkpoint / name).write_bytes(data)

    return damage


def wrong(key: str, value: object):
    return damaged_state(
        lambda state: state["state"]["__map__"].__setitem__(
            [pair[0] for pair in state["state"]["__map__"]].index(key), [key, value]
        )
    )


@pytest.mark.parametrize(
    "damage",
    [
        *map(flipped, ("state.json", "model.safetensors", "optimizer.safetensors")),
        *(wrong("clipper", value) for value in (None, 3, {"__map__": []}, {"__tensor__": ["load", [0], ""]})),
        *(wrong("data", value) for value in ({"__map__": []}, {"__map__": [["epoch", "x"]]}, [])),
        *(wrong("generator", {"__tensor__": [kind, [4], "AAAAAA=="]}) for kind in ("uint8", "float32", "Tensor")),
        wrong("generator", {"__tensor__": ["uint8", [10**12], "AAAAAA=="]}),
        damaged_state(lambda state: state.update(step=float("inf"))),
        damaged_state(lambda state: state.update(files={"../../../evil": "0"})),
        damaged_state(lambda state: state["files"].pop("optimizer")),
        damaged_state(lambda state: state["files"].pop("model")),
        damaged_tensors("model", lambda tensors: tensors.popitem()),
        damaged_tensors("optimizer", lambda tensors: tensors.popitem()),
        damaged_tensors("optimizer", lambda tensors: tensors.update({next(iter(tensors)): torch.zeros(2, 3, 4)})),
        damaged_tensors("optimizer", lambda tensors: tensors.update({key: tensors[key].long() for key in tensors})),
    ],
)
def test_a_damaged_checkpoint_is_named(config, stopped, damage):
    damage(list_checkpoints(stopped / "checkpoints")[-1])
    with pytest.raises(InputError, match=r"checkpoints/step-00000001"):
        train(config(), folder=stopped, resume=True)


@pytest.mark.parametrize("line", ["{", "3", "{}", '{"step": "x"}', "\x00", "[" * 99_999, '{"a": "\\ud800"}', b"\xff"])
def test_a_damaged_line_of_the_log_is_named(tmp_path, line):
    middle = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 0}\n' + middle + b'\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl.*line 2"):
        read_metrics(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"steps": "x"}', '{"steps": 1, "loss": [2]}', "null"])
def test_a_damaged_summary_is_named(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(InputError, match=r"summary\.json"):
        read_result(tmp_path)


class Full:
    name = "run/metrics.jsonl"

    def write(self, text: str) -> None:
        raise OSError(28, "No space left on device")

    close = flush = lambda self: self.write("")


def test_a_full_disk_is_told_of_logs_and_weights_as_well(tmp_path, monkeypatch):
    book = Logbook(tmp_path / "metrics.jsonl", steps_done=0)
    book.close()
    book._file = Full()
    with pytest.raises(WriteError, match=r"^run/metrics\.jsonl: could not be written: No space left on device"):
        book.write({"step": 0})
    book.close()
    rows = BadRows("pool", path=tmp_path / "bad_rows.jsonl")
    monkeypatch.setattr("tether.data.bad_rows.open_append", lambda path: contextlib.nullcontext(Full()))
    with pytest.raises(WriteError, match=r"bad_rows\.jsonl: could not be written"):
        rows.add("key", "no image")
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(WriteError, match=r"a\.safetensors: could not be written"):
        write_weights(tmp_path / "a.safetensors", {}, metadata={})


def test_a_comparison_in_which_nothing_was_finished_is_begun_again(config, tmp_path):
    started = tmp_path / "compare" / "zclip"
    for settings in (config(), config("seed=1")):
        own_run._claim(tmp_path, settings, steps=20, resume=False)
        assert not started.exists()
        started.mkdir()
        (started / "config.yaml").write_text("data: emoji")
    (started / own_run.ENDED).write_text('{"diverged": ""}')
    with pytest.raises(InputError, match="holds a comparison already"):
        own_run._claim(tmp_path, config(), steps=20, resume=False)
    with pytest.raises(InputError, match="other settings: seed"):
        own_run._claim(tmp_path, config(), steps=20, resume=True)
    (tmp_path / "compare" / "plan.json").write_text('{"config": 3}')
    with pytest.raises(InputError, match=r"plan\.json: expected the steps"):
        own_run._claim(tmp_path, config(), steps=20, resume=True)


@pytest.mark.parametrize(
    ("override", "given", "refused"),
    [
        ("data=hf:someone/thing", [], "data from 'hf:someone/thing'"),
        ("data={name: mixture, of: [{path: 'http://host/a.csv'}]}", [], "data.of from 'http://host/a.csv'"),
        ("evaluate.source=s3://bucket/a", [], "evaluate.source from"),
        ("model.load=hf:someone/thing", [], "not loaded unasked"),
        ("model={image: 'timm:resnet18.a1_in1k', text: starter}", [], "not loaded unasked"),
        ("model={image: 'timm:resnet18//other/x.safetensors', text: starter}", [], "not loaded unasked"),
        ("model={image: starter, text: {name: 'hf:someone/thing'}}", [], "resume model.text.name=hf:someone/thing"),
        ("step={views: {far: {source: image, encoder: 'hf:a/b'}}}", [], "resume step.views.far.encoder=hf:a/b"),
        ("step={name: semantic, encoder: 'hf:a/b'}", ["step.x=1"], "not loaded unasked"),
        ("step={name: semantic, encoder: 'hf:a/b'}", ["steps=5"], "not loaded unasked"),
        ("stages=[{share: 1, data: 'hf:a/b'}]", [], "takes stages from 'hf:a/b'"),
        ("stages=[{share: 1, step: {name: semantic, encoder: 'hf:a/b'}}]", [], "not loaded unasked"),
        ("data={name: csv, path: a.csv, remote_images: true}", [], "data.remote_images from"),
        ("data='csv:path=a.csv,remote_images=true'", [], "data from"),
        ("data={name: split, source: {name: csv, path: a.csv, remote_images: true}, part: train}", [], "remote_images"),
        ("data={name: mixture, sources: [{name: hf, path: a/b}]}", [], "data.sources from 'hf'"),
        ("data='split:part=train,source=hf:a/b'", [], "data from"),
        ("trackers=[wandb]", [], "takes trackers from 'wandb'"),
        ("trackers=[wandb]", ["trackers=[wandb]"], None),
        ("trackers=[tensorboard]", [], None),
        ("data={name: csv, path: a.csv, remote_images: false}", [], None),
        ("model={image: 'timm:test_vit', text: starter}", [], None),
        ("model.load=hf:someone/thing", ["model.load=hf:someone/thing"], None),
        ("stages=[{share: 1, data: 'hf:a/b'}]", ["stages=[{share: 1, data: 'hf:a/b'}]"], None),
        ("step={views: {seen: {source: image, encoder: model}, said: {source: text, encoder: words}}}", [], None),
        ("data=hf:someone/thing", ["data=hf:someone/thing"], None),
        ("data=photos.csv", [], None),
    ],
)
def test_a_record_alone_reaches_no_network(tmp_path, override, given, refused):
    config = load_config(overrides=["data=emoji", override])
    if refused is None:
        check_recorded(config, given=given, folder=tmp_path)
    else:
        with pytest.raises(InputError, match=refused):
            check_recorded(config, given=given, folder=tmp_path)


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_dry_run_asks_of_a_record_too(tmp_path, capsys, more):
    from tether.cli import main

    (tmp_path / "config.yaml").write_text("data: hf:someone/thing\n")
    with pytest.raises(SystemExit) as ended:
        main(["train", "--resume", "--out", str(tmp_path), *more])
    assert ended.value.code == 2
    assert "not read unasked" in capsys.readouterr().err.replace("\n", " ")


def test_of_other_stages_only_what_is_other_is_told():
    stages = [{"share": 0.5, "step": None, "how": None}, {"share": 0.5, "step": None, "how": None}]
    other = [stages[0], {**stages[1], "how": "sincos"}]
    assert list(_differences("stages", stages, other)) == ["  stages.1.how: the run has None, asked for 'sincos'"]
    assert list(_differences("stages", stages, [])) == [
        "  stages: the run has [{'share': 0.5}, {'share': 0.5}], asked for []"
    ]
