"""Results that were damaged or planted: refused by name, whatever was done to them."""

from __future__ import annotations

import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tether.core.decomposition import Decomposition
from tether.core.errors import InputError
from tether.core.finding import Bar, Bars, Cloud, Curve, Figure, Finding, Gallery, Item
from tether.core.shape import check
from tether.core.state_file import read_state, write_state
from tether.evaluate import report

CONFIG = {"batch_size": 8, "accumulate": 1, "evaluate": {"source": "emoji"}, "optimizer": {"name": "adamw"}}
ENVIRONMENT = {"threads": 1, "host": "here", "libraries": {"torch": "2"}, "devices": []}
SUMMARY = {"steps": 30, "skipped": 0, "seconds": 3.5, "text_to_image_r10": 0.5, "text_to_image_r10_low": 0.4}
RECORDS = [
    {"step": step, "loss": 3.0 - step / 20, "grad_norm": 1.0, "grad_scale": 0.5, "grad_threshold": 0.5, "lr": 0.1,
     "seconds": 0.1 * step, "logit_scale": 14.0, "images_per_second": 80.0, "skipped": step == 3}
    | ({"eval": {"text_to_image_r10": 0.5, "image_to_text_r10": 0.5}} if step % 9 == 0 else {})
    for step in range(30)
]  # fmt: skip
VALUES = (
    None, True, -1, 10**20, 10**400, 1e308, 5e-324, float("nan"), float("inf"), "x", "", [], {}, [1], {"a": 1},
    "</script>", {"source": 3}, [[]],
)  # fmt: skip
BYTES = (b"\0", b"\xff", b"1e999", b"9" * 5000, b"[" * 2000, b"{", b"\n", b"!!python/object:os.system x", b"&a [*a]")


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, one in inner for place in places(one, (*at, key)))]


def changed(value: Any, rng: random.Random) -> Any:
    """A copy in which one value is another or gone."""
    value = json.loads(json.dumps(value))
    place = rng.choice(places(value))
    if not place:
        return rng.choice(VALUES)
    holder = value
    for key in place[:-1]:
        holder = holder[key]
    if isinstance(holder, dict) and rng.random() < 0.25:
        del holder[place[-1]]
    else:
        holder[place[-1]] = rng.choice(VALUES)
    return value


def spoilt(data: bytes, rng: random.Random) -> bytes:
    """The same bytes with a few of them lost, changed or put in."""
    for _ in range(rng.choice((1, 1, 3, 10))):
        at = rng.randrange(len(data) + 1)
        data = rng.choice(
            (data[:at], data[:at] + data[at + 9 :], data[:at] + rng.choice(BYTES) + data[at:],
             data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :])
        )  # fmt: skip
    return data


def run_of(folder: Path, rng: random.Random) -> None:
    wanted = {"config.yaml": CONFIG, "environment.json": ENVIRONMENT, "summary.json": SUMMARY, "metrics.jsonl": RECORDS}
    name, raw = rng.choice((*wanted, "metrics.jsonl")), rng.random() < 0.4
    if not raw:
        wanted[name] = changed(wanted[name], rng)
    for file, values in wanted.items():
        if file == "metrics.jsonl":
            text = "".join(json.dumps(one) + "\n" for one in (values if isinstance(values, list) else [values]))
        else:
            text = yaml.safe_dump(values) if file == "config.yaml" else json.dumps(values)
        (folder / file).write_bytes(spoilt(text.encode(), rng) if raw and file == name else text.encode())


def test_a_damaged_run_is_reported_or_refused(tmp_path: Path) -> None:
    told = []
    for seed in range(60):
        run_of(tmp_path, random.Random(seed))
        try:
            page = report.write(tmp_path, bootstrap=0).read_text(encoding="utf-8")
        except InputError as error:
            told.append(str(error))
            continue
        data = page.split('id="chart-data">')[1].split("</script>")[0]
        json.loads(data, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert 15 < len(told) < 50
    assert all(str(tmp_path) in one for one in told)


FINDING = Finding(
    "Said.",
    "note",
    (Figure("f", 0.5, 0.4, 0.6, "share"),),
    (Gallery("g", (Item(1, "t", "n", "data:image/png;base64,"),)), Bars("b", (Bar("x", 1.0, 0.5, 2.0, True),)),
     Curve("c", (1.0, 2.0), "across", (1,)), Cloud("d", ((1.0, 2.0),), ((3.0, 4.0),))),
)  # fmt: skip


def test_a_damaged_finding_is_refused() -> None:
    values = json.loads(json.dumps(FINDING.to_dict()))
    assert Finding.from_dict(values) == FINDING
    refused = 0
    for seed in range(200):
        other = changed(values, random.Random(seed))
        try:
            found = Finding.from_dict(other)
        except InputError:
            refused += 1
        else:
            check(json.loads(json.dumps(found.to_dict())), {"sentence": str, "figures": [{"name": str}]}, where="")
    assert refused > 100
    values["drawings"][0]["items"][0]["uri"] = "https://example.org/x.png"
    with pytest.raises(InputError, match="within the page"):
        Finding.from_dict(values)


def decomposition(path: Path) -> None:
    Decomposition(torch.ones(2, 3, 4, 5, 6), torch.ones(2, 4, 6), torch.ones(2, 6)).save(path)


def state(path: Path) -> None:
    write_state(path, format="f", settings={"a": [1, {"b": None}]}, arrays={"a": np.ones((2, 3), np.float32)})


def read_a_state(path: Path) -> None:
    settings, arrays = read_state(path, what="Part", format="f", arrays=frozenset({"a"}))
    assert (settings, arrays["a"].tolist()) == ({"a": [1, {"b": None}]}, np.ones((2, 3)).tolist())


@pytest.mark.parametrize(("save", "load"), [(decomposition, Decomposition.load), (state, read_a_state)])
def test_damaged_arrays_are_refused(tmp_path: Path, save: Any, load: Any) -> None:
    path = tmp_path / "file"
    save(path)
    whole = path.read_bytes()
    load(path)
    told = []
    for seed in range(200):
        path.write_bytes(spoilt(whole, random.Random(seed)))
        try:
            load(path)
        except InputError as error:
            told.append(str(error))
    assert len(told) > 50
    assert all(str(path) in one for one in told)


def archive(**arrays: object) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


FACTS = np.array(["tether-decomposition-1", "none", "1", ""])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (archive(facts=np.array("abcd")), "expected a file of Decomposition.save"),
        (archive(facts=FACTS), "expected a file of Decomposition.save"),
        (archive(facts=FACTS, attention=np.array("x"), mlp=np.ones(1), representation=np.ones(1)), "floating-point"),
        (archive(attention=np.array([{}])), "not a decomposition"),
        (archive(attention=np.zeros(2**25, np.float32)), "bytes that unpack to"),
    ],
)
def test_archives_of_something_else(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.npz").write_bytes(data)
    assert zipfile.is_zipfile(tmp_path / "a.npz")
    with pytest.raises(InputError, match=message):
        Decomposition.load(tmp_path / "a.npz")
