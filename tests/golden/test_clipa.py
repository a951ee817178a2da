"""Which tokens, words and positions CLIPA's released code keeps, and its loss."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.data.captions import pos_class
from tether.evaluate.retrieval import recall_at_k
from tether.losses import clip_loss
from tether.methods.clipa import shorten
from tether.models.tokenizer import ClipTokenizer
from tether.models.towers.patch_selection import (
    BlockTokens,
    GridTokens,
    RandomTokens,
    best_tokens,
    removed_tokens,
    take_tokens,
)
from tether.models.towers.positions import resize_grid, resize_line, sincos_grid

V = load("clipa")


def cases(prefix: str, suffix: str) -> list[str]:
    """What stands between prefix and suffix in the names of arrays."""
    names = [name for name in V.arrays if name.startswith(prefix) and name.endswith(suffix)]
    return sorted(name.removeprefix(prefix).removesuffix(suffix) for name in names)


def at(name: str) -> Tensor:
    return torch.from_numpy(V[name])


def close(found: Tensor, expected: Tensor) -> None:
    kind = "float32" if expected.dtype == torch.float32 else "float64"
    torch.testing.assert_close(found.to(expected.dtype), expected, rtol=0, atol=V.meta["tolerance"][kind])


class Scripted:
    """A generator that gives what it was told."""

    def __init__(self, *numbers: float) -> None:
        self.left: Iterator[float] = iter(numbers)

    def random(self) -> float:
        return next(self.left)


def padded(rows: Tensor, like: np.ndarray) -> list[list[int]]:
    return torch.nn.functional.pad(rows, (0, like.shape[1] - rows.shape[1])).tolist()


@pytest.mark.parametrize("case", cases("jaxmask_", "_x"))
def test_random_masking_in_jax(case: str) -> None:
    x, noise = at(f"jaxmask_{case}_x"), at(f"jaxmask_{case}_noise")
    choice = RandomTokens(keep=1 - float(V[f"jaxmask_{case}_ratio"]), rule="truncate", end="smallest", order="score")
    keep = choice(noise, grid=(1, x.shape[1]))
    close(take_tokens(x, keep, prefix=0), at(f"jaxmask_{case}_out"))
    assert torch.equal(removed_tokens(keep, tokens=x.shape[1]).float(), at(f"jaxmask_{case}_mask"))
    every = best_tokens(noise, count=x.shape[1], end="smallest", order="score")
    assert torch.equal(every.argsort(dim=1), at(f"jaxmask_{case}_restore"))


@pytest.mark.parametrize("case", cases("pdrop_", "_x"))
def test_patch_dropout_in_torch(case: str) -> None:
    x, noise = at(f"pdrop_{case}_x"), at(f"pdrop_{case}_noise")
    choice = RandomTokens(keep=1 - float(V[f"pdrop_{case}_prob"]), rule="truncate", end="largest", order="score")
    keep = choice(noise, grid=(1, noise.shape[1]))
    close(take_tokens(x, keep, prefix=x.shape[1] - noise.shape[1]), at(f"pdrop_{case}_out"))


def test_some_patches_of_each_window() -> None:
    rows, columns, each = V["gridmask_cfg"].tolist()
    scores = torch.zeros(1, rows, columns)
    for number, cells in enumerate(V["gridmask_pick"].tolist()):
        row, column = divmod(number, columns // 2)
        for cell in cells:
            scores[0, 2 * row + cell // 2, 2 * column + cell % 2] = 1
    keep = GridTokens(window=2, each=each)(scores.flatten(1), grid=(rows, columns))
    assert torch.equal(~removed_tokens(keep, tokens=rows * columns).view(rows, columns), at("gridmask_keep"))


def test_a_rectangle_of_patches() -> None:
    rows, columns, down, across, top, left = V["blockmask_cfg"].tolist()
    scores = torch.zeros(1, rows, columns)
    scores[0, top, left] = 1
    keep = BlockTokens(size=(down, across))(scores.flatten(1), grid=(rows, columns))
    assert torch.equal(~removed_tokens(keep, tokens=rows * columns).view(rows, columns), at("blockmask_keep"))


@pytest.mark.filterwarnings("ignore:.*were cut")
@pytest.mark.parametrize("length", [str(length) for length in V["syntax_context_lengths"]])
def test_words_that_tell_most(length: str) -> None:
    texts, tags, order, kept = (
        json.loads(str(V[f"syntax_{name}"])) for name in ("words", "tags", "order", "kept_index")
    )
    tokenizer = ClipTokenizer(int(length))
    found, most = [], int(length) - 2
    for words, given, classes, places in zip(texts, tags, order, kept[length], strict=True):
        assert [pos_class(tag) for tag in given] == classes
        assert shorten(range(len(words)), most=most, method="syntax", classes=classes) == places
        found.append(" ".join(shorten(words, most=most, method="syntax", classes=classes)))
    for name, rows in (("syntax", found), ("trunc", [" ".join(words) for words in texts])):
        expected = V[f"{name}_tokens_T{length}"]
        assert padded(tokenizer(rows), expected) == expected.tolist()


def test_token_ids() -> None:
    ids, first = V["tokrule_ids"].tolist(), int(V["tokrule_cls"])
    length = int(V["tokrule_max_len"])
    most = length - 1

    def row(pieces: list[int]) -> list[int]:
        return [first, *pieces] + [0] * (most - len(pieces))

    places = max(len(ids) - most + 1, 1)
    for start, expected in zip(V["tokblock_start"].tolist(), V["tokblock_out"].tolist(), strict=True):
        chance = Scripted((start + 0.5) / places)
        assert row(shorten(ids, most=most, method="block", generator=chance)) == expected
    noise = (V["tokrandom_perm"].argsort(kind="stable") / len(ids)).tolist()
    for keep_order, name in ((False, "tokrandom_out"), (True, "tokrandom_out_keep_order")):
        found = shorten(ids, most=most, method="random", keep_order=keep_order, generator=Scripted(*noise))
        assert row(found) == V[name].tolist()
    found = shorten(ids, most=most, method="syntax", classes=V["tokpos_class"].tolist())
    assert row(found) == V["tokpos_out"].tolist()


@pytest.mark.parametrize("order", ["torch", "jax"])
@pytest.mark.parametrize("case", cases("sincos_", "_cfg"))
def test_fixed_positions(case: str, order) -> None:
    width, side, prefix = V[f"sincos_{case}_cfg"].tolist()
    expected = at(f"sincos_{order}_{case}")
    found = sincos_grid((side, side), width=width, order=order)
    close(torch.cat([torch.zeros(prefix, width, dtype=found.dtype), found]), expected)


@pytest.mark.parametrize("case", cases("imgpos_", "_grid"))
def test_positions_of_another_grid(case: str) -> None:
    old, new = V[f"imgpos_{case}_grid"].tolist()
    close(resize_grid(at(f"imgpos_{case}_old"), old=(old, old), new=(new, new)), at(f"imgpos_{case}_new"))


@pytest.mark.parametrize("case", cases("txtpos_", "_old"))
def test_positions_of_another_length(case: str) -> None:
    expected = at(f"txtpos_{case}_new")
    close(resize_line(at(f"txtpos_{case}_old"), length=len(expected)), expected)


def test_loss() -> None:
    image, text = at("loss_zimg"), at("loss_ztxt")
    close(clip_loss(image, text, float(V["loss_t"])), at("loss_value"))
    correct = recall_at_k(image, text, k=(1,))["image_to_text_r1"]
    assert correct == pytest.approx(float(V["loss_ncorrect"]), abs=V.meta["tolerance"]["float64"])
