"""Names of files and URLs that lead nowhere, and numbers that no array can count to: each is an InputError."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch

import tether
from tether.core.errors import InputError
from tether.data import open_source
from tether.models.embed import encode_texts
from tether.models.towers.vision.masked_patches import mask_patches_

RECIPE = {"recipe": "demo", "settings": ["size=tiny", "model={}", "steps=1", "precision=fp32"]}


@pytest.mark.parametrize("kind", ["ftp://host.invalid/a.csv", "ftp://host.invalid/photos/", "ftp://host.invalid/*.tar"])
def test_an_unreachable_host_is_named(kind, monkeypatch):
    def nowhere(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", nowhere)
    with pytest.raises(InputError, match=r"ftp://host.invalid/.*: cannot reach it: gaierror"):
        open_source(kind)


@pytest.mark.parametrize("verb", ["embed", "classify", "segment", "detect", "quality"])
def test_a_module_of_another_library_is_told_how_to_come_in(verb):
    more = {"embed": {"out": "never.parquet"}, "classify": {"classes": ["a", "b"]}, "segment": {"classes": ["a", "b"]}}
    with pytest.raises(InputError, match=r"got Linear; a model in memory is saved first"):
        getattr(tether, verb)("digits", model=torch.nn.Linear(2, 2), **more.get(verb, {}))


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


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (("block", "norm"), "norm: unknown choice 'n"),
        (("tower",), "unknown tower 'n"),
        (("n" * 100_000,), "unknown key 'n"),
    ],
)
def test_long_words_of_a_folder_are_quoted_short(tmp_path, keys, said):
    tether.save(tether.load("tiny", random_weights=True), tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    about = json.loads(file.read_text())
    place = about["model"]["vision"]
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = "n" * 100_000
    file.write_text(json.dumps(about))
    with pytest.raises(InputError, match=said) as caught:
        tether.load(tmp_path / "model")
    assert len(str(caught.value)) < 1000


def test_a_module_is_no_name():
    with pytest.raises(InputError, match=r"got Linear; a model in memory is saved first: .* save_pretrained"):
        tether.load(torch.nn.Linear(2, 2))  # pyrefly: ignore[bad-argument-type]


def test_a_shortlist_without_dims_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))
    model, source = tether.load("tiny", random_weights=True), "scenes:rows=5,size=64"
    with pytest.raises(InputError, match=r"^shortlist: needs dims \(--dims\) beside it"):
        tether.search(source, "a dog", model=model, top=1, shortlist=20)
    with pytest.raises(InputError, match=r"^shortlist: expected at least top, 3, got 2"):
        tether.search(source, "a dog", model=model, top=3, dims=8, shortlist=2)


def test_an_image_tower_without_patches_is_named():
    with pytest.raises(InputError, match="image tower of Sequential is no vision transformer"):
        mask_patches_(torch.nn.Sequential())  # pyrefly: ignore[bad-argument-type]


def test_what_a_larger_context_takes_is_said():
    how = {"name": "stretch", "keep": 8, "ratio": 2}
    with pytest.raises(InputError, match=r"ratio 2 makes 40 .* \(model.resized.context=40\)"):
        tether.load("tiny", random_weights=True).resized(context=80, how=how)


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
