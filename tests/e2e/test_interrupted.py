"""Ctrl-C in the middle of each long verb: exit code 130, one message, nothing half written; training can go on."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import tether
from processes import Child, run_tether, wait_for
from processes import tether as tether_process
from tether.cli import main
from tether.models.presets import create

TRAIN = ["size=tiny", "batch_size=2", "precision=fp32", "threads=1", "save_every=100000"]


def slowly(*arguments: str) -> None:
    """The command line, where ``slow.png`` is read as slowly as the test wants."""
    from tether.data import image_file

    read = image_file.read_bytes

    def read_slowly(path, *, limit):
        if Path(path).name == "slow.png":
            Path("reached").touch()
            while not Path("go").exists():
                time.sleep(0.01)
        return read(path, limit=limit)

    image_file.read_bytes = read_slowly
    main(list(arguments))


def ended(child: Child, code: int = 130) -> str:
    """What an interrupted one says."""
    _, stderr = child.communicate()
    assert child.returncode == code, stderr
    assert "Traceback" not in stderr
    return stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "m"
    tether.save(create("tiny"), folder)
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Three images, the last of which is read as slowly as the test wants."""
    for name, colour in {"a.png": "red", "b.png": "red", "slow.png": "yellow"}.items():
        Image.new("RGB", (32, 32), colour).save(tmp_path / name)
    (tmp_path / "pairs.csv").write_text("filepath,title\na.png,one\nb.png,two\nslow.png,three\n")
    return tmp_path


@pytest.mark.parametrize(
    "verb",
    [
        ["embed", "pairs.csv", "--model", "{model}", "--out", "out.parquet"],
        ["classify", "pairs.csv", "--model", "{model}", "--classes", "cat,dog", "--out", "out.csv"],
        ["eval", "{model}", "pairs.csv", "--json", "out.json"],
    ],
    ids=lambda verb: verb[0],
)
def test_ctrl_c_in_the_middle(place: Path, model: Path, verb: list[str]) -> None:
    before = {path.name for path in place.iterdir()}
    child = Child(slowly, *(word.format(model=model) for word in verb), cwd=place)
    wait_for((place / "reached").exists, child)
    child.signal(signal.SIGINT)
    time.sleep(0.3)
    (place / "go").touch()
    assert ended(child).rstrip().endswith("tether: interrupted")
    left = {path.name for path in place.iterdir()} - before
    assert not [name for name in left if name.startswith("out.") and not name.endswith(".parts")], left


def test_ctrl_c_while_indexing(tmp_path: Path) -> None:
    rows, dim = 60_000, 32
    vectors = np.random.default_rng(0).standard_normal(rows * dim, dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors), dim)
    pq.write_table(pa.table({"key": [f"k{n}" for n in range(rows)], "embedding": column}), tmp_path / "e.parquet")
    child = tether_process("index", "e.parquet", "--out", "store", cwd=tmp_path)
    wait_for((tmp_path / "store").exists, child)
    child.signal(signal.SIGINT)
    assert ended(child).rstrip().endswith("tether: interrupted")
    assert f"{rows} rows of {dim} numbers" in run_tether("index", "e.parquet", "--out", "store", cwd=tmp_path)[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_training_saves_and_says_how_to_go_on(place: Path, number: signal.Signals) -> None:
    (place / "pairs.csv").write_text("filepath,title\na.png,one\nb.png,two\n")
    child = tether_process("train", "data=pairs.csv", "steps=100000", *TRAIN, "--out", "run", cwd=place)
    log = place / "run" / "metrics.jsonl"
    wait_for(lambda: log.exists() and log.read_text().count("\n") > 1, child)  # the first step is over
    child.signal(number)
    stderr = ended(child)
    assert "stopping after this step, with a checkpoint" in stderr
    assert "go on with: tether train --resume --out run" in stderr
    assert not (place / "run" / "summary.json").exists()
    assert len(list((place / "run" / "checkpoints").glob("step-*"))) == 1


ADAPT = ["--recipe", "pairs", "steps=1", "batch_size=2", "--out", "out"]
ENDS = {signal.SIGINT: (130, "tether: interrupted"), signal.SIGTERM: (143, "tether: terminated")}


@pytest.mark.parametrize("number", ENDS, ids=["ctrl-c", "terminate"])
@pytest.mark.parametrize(
    "verb",
    [
        ["adapt", "{model}", "pairs.csv", *ADAPT, "--keep", "few.csv"],
        ["adapt", "{model}", "few.csv", *ADAPT, "--test", "others.csv", "--keep", "pairs.csv"],
        ["train", "data=pairs.csv", "steps=2", *TRAIN, "--out", "out"],
    ],
    ids=["adapt-reads", "adapt-measures", "train-reads"],
)
def test_between_the_steps_alone_a_signal_waits(
    place: Path, model: Path, verb: list[str], number: signal.Signals
) -> None:
    (place / "few.csv").write_text("filepath,title\na.png,one\nb.png,two\n")
    (place / "others.csv").write_text("filepath,title\nc.png,one\nd.png,two\n")
    for name, colour in {"b.png": "blue", "c.png": "green", "d.png": "white"}.items():
        Image.new("RGB", (32, 32), colour).save(place / name)
    child = Child(slowly, *(word.format(model=model) for word in verb), cwd=place)
    wait_for((place / "reached").exists, child)
    child.signal(number)
    code, says = ENDS[number]
    assert ended(child, code).rstrip().endswith(says)
    assert not (place / "go").exists()
    assert not (place / "out").exists() or not [*(place / "out").rglob("*.safetensors")]
    assert verb[0] == "train" or not (place / "out").exists()


def test_resume_needs_the_folder_only(place: Path, monkeypatch, capsys) -> None:
    (place / "pairs.csv").write_text("filepath,title\na.png,one\nb.png,two\n")
    monkeypatch.chdir(place)
    for arguments in (["data=pairs.csv", "steps=2", *TRAIN, "--out", "run"], ["--resume", "--out", "run"]):
        with pytest.raises(SystemExit) as left:
            main(["train", *arguments])
        assert left.value.code == 0, capsys.readouterr().err
    assert "2 steps" in capsys.readouterr().out


def test_stopped_at_its_last_step_a_run_is_saved_and_finishes(tmp_path: Path) -> None:
    from tether.core.errors import StoppedError
    from tether.training import load_config, train
    from tether.training.checkpoints import list_checkpoints

    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "b.png")
    (tmp_path / "pairs.csv").write_text("filepath,title\na.png,one\nb.png,two\n")
    config = load_config(overrides=[f"data={tmp_path / 'pairs.csv'}", "steps=1", *TRAIN])
    with pytest.raises(StoppedError, match=r"after step 1; go on with"):
        train(config, folder=tmp_path / "run", should_stop=lambda: True)
    assert len(list_checkpoints(tmp_path / "run" / "checkpoints")) == 1
    result = train(config, folder=tmp_path / "run", resume=True)
    assert (result.steps, result.loss > 0) == (1, True)
