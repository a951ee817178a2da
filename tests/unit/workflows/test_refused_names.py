"""Names of files and URLs that lead nowhere, and numbers that no array can count to: each is an InputError."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

import tether
from tether.core.errors import InputError
from tether.data import open_source
from tether.models.embed import encode_texts

RECIPE = {"recipe": "demo", "settings": ["size=tiny", "model={}", "steps=1", "precision=fp32"]}


@pytest.mark.parametrize("kind", ["ftp://host.invalid/a.csv", "ftp://host.invalid/photos/", "ftp://host.invalid/*.tar"])
def test_an_unreachable_host_is_named(kind, monkeypatch):
    def nowhere(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", nowhere)
    with pytest.raises(InputError, match=r"ftp://host.invalid/.*: cannot reach it: gaierror"):
        open_source(kind)


def test_a_user_who_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tether.load("tiny", random_weights=True)
    out = "~nobody-of-that-name/x"
    for call in (
        lambda: tether.train("digits", out=out, **RECIPE),
        lambda: tether.save(model, out),
        lambda: tether.embed("digits", model=model, out=f"{out}.parquet"),
        lambda: open_source({"name": "figures", "path": out}),
    ):
        with pytest.raises(InputError, match="nobody-of-that-name"):
            call()
    assert not list(tmp_path.iterdir())


def test_a_nul_in_the_name_of_an_output(tmp_path):
    model = tether.load("tiny", random_weights=True)
    out = f"{tmp_path}/a\0b"
    for call in (lambda: tether.train("digits", out=out, **RECIPE), lambda: tether.save(model, Path(out))):
        with pytest.raises(InputError, match=r"a\\x00b"):
            call()


def test_more_than_arrays_can_count():
    model = tether.load("tiny", random_weights=True)
    said = "batch_size: expected an integer of at most 63 bits, got 9223372036854775808"
    for call in (
        lambda: encode_texts(model, ["a"], batch_size=2**63),
        lambda: tether.eval(model, "digits", batch_size=2**63),
        lambda: model.embed(["a"], batch_size=2**63),
    ):
        with pytest.raises(InputError, match=said):
            call()


def test_what_only_the_first_step_refuses_leaves_no_folder(tmp_path):
    settings = [*RECIPE["settings"], "objective={name: matryoshka, of: clip, dims: [8, 9999]}", "schedule.warmup=0"]
    with pytest.raises(InputError, match="at most the 64 numbers of an embedding"):
        tether.train("digits", recipe="demo", out=tmp_path / "run", settings=settings)
    assert not (tmp_path / "run").exists()


def test_a_search_with_a_model_without_weights_says_so_or_takes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))
    source = "scenes:rows=5,size=64"
    with pytest.raises(InputError, match="random"):
        tether.search(source, "a red circle", model="tiny")
    assert len(tether.search(source, "a red circle", model="tiny", random_weights=True, top=2)["a red circle"]) == 2
