"""Rows of many clients in one batch: the same as alone, within bounds, fair, and none for who went away."""

from __future__ import annotations

import threading
import time

import pytest
import torch

import tether
from tether.core.errors import InputError, NotFiniteError
from tether.serve.batching import Batcher, FullError, StoppingError
from tether.serve.limits import ServerLimits

TEXTS = [
    f"a {colour} {shape} " * (1 + number % 3)
    for number, (colour, shape) in enumerate(
        (colour, shape) for colour in ("red", "green", "blue") for shape in ("circle", "star", "square")
    )
]


@pytest.fixture(scope="module")
def model():
    return tether.load("tiny", random_weights=True).eval()


class Held:
    """Keeps the model's thread busy until it is let go."""

    def __init__(self, batcher):
        self.go, begun = threading.Event(), threading.Event()
        self.done = batcher.call(lambda _: (begun.set(), self.go.wait(30)))
        assert begun.wait(30)


def test_joined_rows_are_those_alone(model):
    seen = []
    batcher = Batcher(model, rows=8, on_batch=lambda kind, rows, _: seen.append((kind, rows)))
    held = Held(batcher)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (5, 3, *model.image_spec.size), dtype=torch.uint8, generator=generator)
    texts = [batcher.texts([text]) for text in TEXTS]
    images = [batcher.images([one]) for one in pixels]
    many = batcher.texts(TEXTS * 3)
    held.go.set()
    together = torch.cat([each.result(30).pooled for each in texts])
    shown = torch.cat([each.result(30).pooled for each in images])
    all_at_once = many.result(30).pooled
    assert batcher.close(30)
    alone = torch.cat([model.embed([text]) for text in TEXTS])
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(unit(together, dim=1), unit(alone, dim=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(unit(all_at_once, dim=1), unit(alone, dim=1).repeat(3, 1), atol=1e-5, rtol=0)
    one_by_one = torch.cat([model.encode_image(one[None]).pooled for one in pixels]).detach()
    torch.testing.assert_close(unit(shown, dim=1), unit(one_by_one, dim=1), atol=1e-5, rtol=0)
    assert max(rows for kind, rows in seen if kind == "text") == 8
    assert sum(rows for kind, rows in seen if kind == "text") == 4 * len(TEXTS)
    assert ("image", 5) in seen


def test_a_long_request_does_not_hold_up_a_short_one(model):
    order = []
    batcher = Batcher(model, rows=4)
    held = Held(batcher)
    long, short = batcher.texts(TEXTS * 5), batcher.texts(["a cat"])
    long.add_done_callback(lambda _: order.append("long"))
    short.add_done_callback(lambda _: order.append("short"))
    held.go.set()
    assert len(long.result(30).pooled) == 45
    assert batcher.close(30)
    assert order == ["short", "long"]


def test_only_where_others_ask_does_one_wait_for_them(model):
    rows = []
    batcher = Batcher(model, rows=2, wait_ms=1e8, on_batch=lambda kind, count, _: rows.append((kind, count)))
    for text in TEXTS[:2]:
        assert len(batcher.texts([text]).result(60).pooled) == 1
    held = Held(batcher)
    both = [batcher.texts([text]) for text in TEXTS[:2]]
    held.go.set()
    both += [both[1].result(60) and batcher.texts([text]) for text in TEXTS[2:4]]
    assert all(len(each.result(60).pooled) == 1 for each in both)
    assert batcher.close(60)
    assert [count for kind, count in rows if kind == "text"] == [1, 1, 2, 2]


def test_a_full_queue_refuses_and_says_when_to_come_again(model):
    batcher = Batcher(model, rows=4, queue=10)
    held = Held(batcher)
    taken = batcher.texts(TEXTS)
    batcher.texts(["a cat"])
    with pytest.raises(FullError, match="try again") as refused:
        batcher.texts(["a dog"])
    assert 1 <= refused.value.retry_after <= 60
    taken.cancel()  # the client went away: there is room at once
    assert batcher.waiting == 10
    again = batcher.texts(["a dog"])
    assert batcher.waiting == 2
    held.go.set()
    assert len(again.result(30).pooled) == 1
    assert batcher.close(30)


def test_who_went_away_costs_nothing(model):
    rows = []
    batcher = Batcher(model, on_batch=lambda kind, count, _: rows.append((kind, count)))
    held = Held(batcher)
    batcher.texts(TEXTS).cancel()
    batcher.call(lambda _: rows.append("computed")).cancel()
    held.go.set()
    assert batcher.close(30)
    assert rows == [("call", 1)]


def test_an_error_hits_its_own_request(model):
    batcher = Batcher(model)
    held = Held(batcher)
    good, bad = batcher.images([torch.zeros(3, 32, 32, dtype=torch.uint8)]), batcher.images([torch.zeros(1)])
    also = batcher.call(lambda _: 1 // 0)
    held.go.set()
    assert good.result(30).pooled.shape == (1, 64)
    assert bad.exception(30) is not None
    assert isinstance(also.exception(30), ZeroDivisionError)
    assert batcher.close(30)


def test_damaged_weights_are_an_error():
    model = tether.load("tiny", random_weights=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    batcher = Batcher(model)
    with pytest.raises(NotFiniteError, match="damaged"):
        batcher.texts(["a cat"]).result(30)
    batcher.close(30)


def test_tokens_and_cut_texts_are_counted(model):
    batcher = Batcher(model)
    found = batcher.texts(["a cat", "a red square " * 60]).result(30)
    assert found.cut == 1
    assert found.tokens == 4 + model.tokenizer.context_length
    batcher.close(30)


def test_the_end_finishes_what_was_taken(model):
    batcher = Batcher(model, rows=4)
    held = Held(batcher)
    taken = batcher.texts(TEXTS)
    threading.Timer(0.05, held.go.set).start()
    assert batcher.close(30)
    assert len(taken.result(0).pooled) == len(TEXTS)
    with pytest.raises(StoppingError):
        batcher.texts(["late"])


def test_the_end_does_not_wait_for_ever(model):
    batcher = Batcher(model)
    held = Held(batcher)
    taken = batcher.texts(TEXTS)
    start = time.monotonic()
    assert not batcher.close(0.05)
    assert time.monotonic() - start < 20
    with pytest.raises(StoppingError, match="stopping"):
        taken.result(5)
    held.go.set()


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"rows": 0}, "rows"), ({"queue": 5}, "2048 rows of one request"), ({"held_bytes": 9}, "held_bytes")],
)
def test_limits_that_nothing_passes(settings, said):
    with pytest.raises(InputError, match=said):
        ServerLimits(**settings)
