"""``tether export`` from a folder to a folder that opens elsewhere with the same embeddings."""

from __future__ import annotations

import warnings

import pytest
import torch

import tether
from tether import cli
from tether.models import create


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    return tether.save(create(size="tiny"), tmp_path_factory.mktemp("model") / "own")


@pytest.fixture
def run(capsys):
    """The command line in this process, for torch and the other libraries take seconds to import in another."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left, warnings.catch_warnings():
            cli.main(["export", *map(str, arguments)])
        return (left.value.code, *capsys.readouterr())

    return call


@pytest.mark.parametrize("form", ["open_clip", "transformers", "tether"])
def test_export_gives_a_folder_with_the_same_embeddings(run, saved, tmp_path, form):
    code, stdout, stderr = run(saved, tmp_path / "out", "--format", form)
    assert code == 0, stderr
    assert "open it with" in stdout
    own, theirs = tether.load(saved), tether.load(tmp_path / "out")
    texts = own.tokenizer(["a red apple", "two dogs"])
    with torch.inference_mode():
        difference = (own.encode_text(texts).unit - theirs.encode_text(texts).unit).abs().max()
    assert difference < 1e-5


def test_what_is_there_is_never_overwritten(run, saved, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    code, _, stderr = run(saved, tmp_path)
    assert code == 2
    assert "exists and is not an empty folder" in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_mistakes_are_one_message(run, saved, tmp_path):
    for arguments in ([tmp_path / "nothing", tmp_path / "out"], [saved, tmp_path / "out", "--format", "onnx"]):
        code, _, stderr = run(*arguments)
        assert code == 2
        assert "Traceback" not in stderr
        assert not (tmp_path / "out").exists()
