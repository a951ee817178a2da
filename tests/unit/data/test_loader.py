"""Training batches: what is in them, and that nothing but the seed, the epoch and the source decides it."""

import json
import threading

import numpy as np
import pytest
import torch

from tables import Listed
from tether.core.errors import InputError
from tether.core.types import Block, ImageSpec, Row
from tether.data import open_source
from tether.data.augment import AUGMENTATIONS, uniforms
from tether.data.bad_rows import BadRows
from tether.data.in_order import loader_threads, ordered
from tether.data.loader import Loader

SPEC = ImageSpec((8, 8))


class Bytes:
    """A tokenizer whose ids are bytes, between a start and an end."""

    context_length, vocab_size = 32, 300

    def __call__(self, texts):
        ids = [[298, *text.encode()[:30], 299] for text in texts]
        return torch.tensor([row + [0] * (max(map(len, ids)) - len(row)) for row in ids])


class Pool:
    """Rows in blocks of ``size``, with chosen ones made bad."""

    name, version = "pool", "1"

    def __init__(self, count, *, size=7, bad=(), texts=2, breaks=(), known=True):
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        self.count, self.size, self.bad, self.texts, self.breaks, self.known = (
            count,
            size,
            set(bad),
            texts,
            breaks,
            known,
        )

    def blocks(self):
        starts = range(0, self.count, self.size)
        return [Block(f"b{at}", min(self.size, self.count - at) if self.known else None) for at in starts]

    def read(self, block, *, start=0):
        first = int(block.id[1:])
        for i in range(first + start, min(first + self.size, self.count)):
            if i in self.breaks:
                raise InputError(f"broken at {i}")
            image = b"broken" if i in self.bad else self.pixels[i]
            yield Row(f"k{i}", image, tuple(f"row {i} text {j}" for j in range(self.texts)))


def loader(source, **changes):
    settings = {"batch_size": 6, "image_spec": SPEC, "tokenizer": Bytes(), "seed": 3, **changes}
    return Loader(source, **settings)


WAYS = [
    pytest.param({}, id="full"),
    pytest.param({"memory": 10, "window_rows": 12}, id="window"),
    pytest.param({"memory": 10, "window_rows": 12, "workers": 3}, id="window-threads"),
    pytest.param({"workers": 3}, id="full-threads"),
    pytest.param({"memory": 20_000}, id="full-without-pixel-table"),
]


def assert_equal(one, two):
    assert one.extra["keys"] == two.extra["keys"]
    assert one.extra["texts"] == two.extra["texts"]
    assert torch.equal(one.image, two.image)
    assert torch.equal(one.text, two.text)


@pytest.mark.parametrize("way", WAYS)
def test_images_and_captions_stay_together(way):
    source = Pool(40)
    batches = loader(source, **way)
    for _ in range(15):
        batch = next(batches)
        assert batch.image.dtype == torch.uint8
        assert batch.image.shape == (6, 3, 8, 8)
        for key, text, pixels, ids in zip(
            batch.extra["keys"], batch.extra["texts"], batch.image, batch.text, strict=True
        ):
            number = int(key[1:])
            assert text.startswith(f"row {number} text ")
            assert torch.equal(pixels.permute(1, 2, 0), torch.from_numpy(source.pixels[number]))
            assert ids[ids != 0].tolist() == [298, *text.encode(), 299]
        assert batch.text.shape[1] == max(len(text) for text in batch.extra["texts"]) + 2
        assert len(set(batch.extra["keys"])) == 6


@pytest.mark.parametrize("way", WAYS)
def test_an_epoch_visits_rows_once_and_the_next_in_another_order(way):
    batches = loader(Pool(40), **way)
    epochs = []
    for _ in range(3):
        keys = []
        for _ in range(6):
            keys += next(batches).extra["keys"]
        epochs.append(keys)
        assert len(keys) == len(set(keys)) == 36
    assert epochs[0] != epochs[1] != epochs[2]
    assert set(epochs[0]) | set(epochs[1]) | set(epochs[2]) == {f"k{i}" for i in range(40)}


def test_every_caption_comes_up_and_first_is_first():
    batches = loader(Pool(12, texts=3))
    seen = {text for _ in range(40) for text in next(batches).extra["texts"]}
    assert len(seen) == 36
    assert all(text.endswith(" 0") for text in next(loader(Pool(12), caption="first")).extra["texts"])
    chosen = loader(Pool(12), caption=lambda row, *, draw: f"{row.key} is called {draw % 2}")
    assert all(" is called " in text for text in next(chosen).extra["texts"])
    with pytest.raises(InputError, match="'last'"):
        loader(Pool(12), caption="last")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bad", [(), (0, 5, 17, 18, 30)], ids=["good", "bad-rows"])
@pytest.mark.parametrize("stop", [0, 1, 5, 6, 7, 16])
def test_going_on_in_the_middle_is_bit_for_bit(way, bad, stop):
    augment = AUGMENTATIONS["chain"]()
    first = loader(Pool(40, bad=bad), augment=augment, **way)
    for _ in range(stop):
        next(first)
    state = json.loads(json.dumps(first.state_dict()))
    second = loader(Pool(40, bad=bad), augment=augment, **way)
    next(second)
    second.load_state_dict(state)
    for _ in range(14):
        assert_equal(next(first), next(second))
        assert first.state_dict() == second.state_dict()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("world", [2, 3])
def test_many_processes_share_what_one_would_take(way, world):
    augment = AUGMENTATIONS["shift_scale"]()
    source = Pool(40, bad=(1, 2, 20), known=False)
    alone = loader(source, augment=augment, **way)
    together = [loader(source, augment=augment, rank=rank, world=world, **way) for rank in range(world)]
    for _ in range(14):
        whole, parts = next(alone), [next(each) for each in together]
        assert whole.extra["keys"] == [key for part in parts for key in part.extra["keys"]]
        assert torch.equal(whole.image, torch.cat([part.image for part in parts]))
        assert whole.extra["texts"] == [text for part in parts for text in part.extra["texts"]]
    assert all(each.state_dict() == alone.state_dict() for each in together)


def test_nobody_waits_for_the_threads_of_a_loader():
    """The garbage collector may drop one in any thread, also in one that its threads wait for."""
    go_on = threading.Event()

    def used_and_dropped():
        with loader_threads(1) as pool:
            pool.submit(go_on.wait, 60)

    ending = threading.Thread(target=used_and_dropped)
    ending.start()
    ending.join(30)
    waits = ending.is_alive()
    go_on.set()
    assert not waits


def test_threads_change_nothing():
    for way in ({}, {"memory": 10, "window_rows": 12}):
        one, two = loader(Pool(40, bad=(3,)), **way), loader(Pool(40, bad=(3,)), workers=4, **way)
        for _ in range(20):
            assert_equal(next(one), next(two))


def test_the_seed_changes_everything():
    one, two = next(loader(Pool(40), seed=1)), next(loader(Pool(40), seed=2))
    assert one.extra["keys"] != two.extra["keys"]


def test_rows_of_equal_captions_share_an_id():
    batch = next(loader(Pool(12), caption=lambda row, *, draw: "odd" if int(row.key[1:]) % 2 else "even"))
    odd = torch.tensor([int(key[1:]) % 2 for key in batch.extra["keys"]])
    assert torch.equal(batch.extra["ids"][:, None] == batch.extra["ids"], odd[:, None] == odd)


@pytest.mark.parametrize("way", WAYS)
def test_bad_rows_are_named_counted_and_replaced(way, tmp_path):
    path = tmp_path / "bad.jsonl"
    batches = loader(Pool(40, bad=(4, 9)), on_bad=path, **way)
    keys = {key for _ in range(24) for key in next(batches).extra["keys"]}
    assert keys == {f"k{i}" for i in range(40)} - {"k4", "k9"}
    assert batches.bad.count == 2
    batches.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {line["key"] for line in lines} == {"k4", "k9"}
    assert len(lines) == 2
    assert all(line["source"] == "pool" and "not an image" in line["error"] for line in lines)
    again = loader(Pool(40, bad=(4, 9)), on_bad=path, **way)
    for _ in range(24):
        next(again)
    again.close()
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("way", WAYS)
def test_strict_stops_at_a_bad_row(way):
    batches = loader(Pool(40, bad=(4,)), strict=True, **way)
    with pytest.raises(InputError, match="'k4'"):
        [next(batches) for _ in range(12)]
    batches.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_block_that_breaks_is_named_and_the_others_go_on(way, tmp_path):
    def make(**more):
        return loader(Pool(40, breaks=(10,)), on_bad=tmp_path / "bad.jsonl", **way, **more)

    batches = make()
    keys = {key for _ in range(24) for key in next(batches).extra["keys"]}
    assert keys == {f"k{i}" for i in range(40)} - {f"k{i}" for i in range(10, 14)}
    batches.close()
    assert json.loads((tmp_path / "bad.jsonl").read_text())["key"] == "b7"
    with pytest.raises(InputError, match="broken at 10"):
        [next(strict) for strict in [make(strict=True)] for _ in range(12)]


def test_a_source_that_is_mostly_bad_stops():
    for way in ({}, {"memory": 10, "window_rows": 60}):
        batches = loader(Pool(120, bad=range(80)), **way)
        with pytest.raises(InputError, match=r"of the first .* rows are bad"):
            [next(batches) for _ in range(40)]


def row(key, *texts, image=True, bad=""):
    return Row(key, np.zeros((8, 8, 3), np.uint8) if image else None, texts, bad=bad)


def test_rows_without_caption_image_or_their_own_key_are_bad(tmp_path):
    good = [row(f"g{i}", "a text", "") for i in range(6)]
    bad = [
        row("none"),
        row("empty", " "),
        row("blind", "a text", image=False),
        row("g3", "again"),
        row("told", "x", bad="why"),
    ]
    batches = loader(Listed(bad[:3] + good + bad[3:]), on_bad=tmp_path / "bad.jsonl")
    assert batches.rows == 6
    assert set(next(batches).extra["texts"]) == {"a text"}
    lines = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [(line["key"], line["error"].split(";")[0]) for line in lines] == [
        ("none", "no caption"),
        ("empty", "every caption is empty"),
        ("blind", "no image"),
        ("g3", "duplicate key"),
        ("told", "why"),
    ]


def test_too_few_rows():
    for way in ({}, {"memory": 10}):
        with pytest.raises(InputError, match="batch"):
            next(loader(Pool(5), **way))
        with pytest.raises(InputError, match=r"empty|fewer"):
            next(loader(Listed([]), **way))
    with pytest.raises(InputError, match=r"only 0 good rows.*no caption"):
        loader(Listed([row("a"), row("b")]))


@pytest.mark.parametrize("wrong", [{"world": 4}, {"batch_size": 0}, {"rank": 1}, {"rank": -1}])
def test_sizes_must_divide(wrong):
    with pytest.raises(InputError, match="batch_size"):
        loader(Pool(40), **wrong)


@pytest.mark.parametrize("key", ["source", "version", "seed", "batch_size", "order"])
def test_a_position_of_another_run_is_refused(key):
    batches = loader(Pool(40))
    with pytest.raises(InputError, match=key):
        batches.load_state_dict({**batches.state_dict(), key: "other"})


def test_a_source_that_changed_is_named(tmp_path):
    table = tmp_path / "kp.csv"
    table.write_text("image,caption\na.png,one\n")
    state = loader(open_source(str(table)), batch_size=1).state_dict()
    table.write_text("image,caption\na.png,one\nb.png,two\n")
    with pytest.raises(InputError, match=r"kp.csv: not the version that the run began with: .* train anew"):
        loader(open_source(str(table)), batch_size=1).load_state_dict(state)


def test_a_caption_of_ten_thousand_words():
    text = "word " * 10_000
    batch = next(loader(Listed([row(f"g{i}", text) for i in range(6)])))
    assert batch.text.shape == (6, 32)


@pytest.mark.parametrize("workers", [0, 2])
def test_ordered_gives_every_good_row_once_in_order(workers, tmp_path):
    source = Pool(40, bad=(0, 11, 39), breaks=(30,), texts=0)
    path = tmp_path / "bad.jsonl"
    found = list(ordered(source, image_spec=SPEC, batch_size=8, workers=workers, on_bad=path))
    expected = [i for i in range(40) if i not in (0, 11, 39) and not 30 <= i < 35]
    assert [row.key for rows, _ in found for row in rows] == [f"k{i}" for i in expected]
    assert torch.equal(torch.cat([p for _, p in found]).permute(0, 2, 3, 1), torch.from_numpy(source.pixels[expected]))
    assert [len(rows) for rows, _ in found] == [8, 8, 8, 8]
    assert sorted(json.loads(line)["key"] for line in path.read_text().splitlines()) == ["b28", "k0", "k11", "k39"]
    limited = list(ordered(source, image_spec=SPEC, batch_size=8, workers=workers, limit=11))
    assert [len(rows) for rows, _ in limited] == [8, 3]
    with pytest.raises(InputError, match="k0"):
        list(ordered(source, image_spec=SPEC, batch_size=8, workers=workers, strict=True))
    with pytest.raises(InputError, match="empty"):
        list(ordered(Listed([]), image_spec=SPEC, batch_size=8))
    with pytest.raises(InputError, match=r"all 3 rows are bad.*not an image"):
        list(ordered(Pool(3, bad=range(3)), image_spec=SPEC, batch_size=8))


def test_the_side_file_survives_a_line_cut_off(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"key": "a"}\n{"key": "b')
    account = BadRows("s", path=path)
    account.add("a", "again")
    assert account.count == 1
    account.add("b", "why")
    assert json.loads(path.read_text().splitlines()[-1])["key"] == "b"


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_augmentations_depend_on_the_rows_draw_alone(name):
    part = AUGMENTATIONS[name]()
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (32, 3, 20, 28), dtype=np.uint8))
    draws = rng.integers(0, 2**63, 32).astype(np.uint64)
    before = pixels.clone()
    out = part(pixels, draws=draws)
    assert out.dtype == torch.uint8
    assert out.shape == pixels.shape
    assert torch.equal(pixels, before)
    assert not torch.equal(out, pixels)
    assert torch.equal(out[5:9], part(pixels[5:9], draws=draws[5:9]))


def test_augmentations_that_do_nothing_change_nothing():
    pixels = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draws = np.arange(8, dtype=np.uint64)
    for name, zero in (
        ("shift_scale", {"shift": 0, "scale": 0}),
        ("flip", {"chance": 0}),
        ("colour", {"brightness": 0, "contrast": 0, "saturation": 0}),
        ("hue", {"turn": 0}),
        ("blur", {"sigma": (0.01, 0.01)}),
        ("sometimes", {"part": "grey", "chance": 0}),
        ("chain", {"parts": []}),
    ):
        assert torch.equal(AUGMENTATIONS[name](**zero)(pixels, draws=draws), pixels)
    assert torch.equal(AUGMENTATIONS["flip"](chance=1)(pixels, draws=draws), pixels.flip(3))
    for name, wrong in (("shift_scale", {"shift": 0.7}), ("flip", {"chance": 2}), ("colour", {"contrast": -1})):
        with pytest.raises(InputError, match="expected"):
            AUGMENTATIONS[name](**wrong)


def test_uniforms_are_uniform_and_salted():
    draws = np.random.default_rng(0).integers(0, 2**63, 4000).astype(np.uint64)
    one, two = uniforms(draws, count=3, salt="a"), uniforms(draws, count=3, salt="b")
    everything = np.concatenate([one, two], axis=1)
    assert np.abs(everything.mean(0) - 0.5).max() < 0.02
    assert np.abs(np.corrcoef(everything.T) - np.eye(6)).max() < 0.06
