"""For any sizes: an epoch repeats no row, going on changes nothing, and processes share what one would take."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.core.types import Block, ImageSpec, Row
from tether.data.loader import Loader
from tether.data.shuffle import permutation

SPEC = ImageSpec((2, 2))


class Numbers:
    name, version = "numbers", "1"

    def __init__(self, count, size):
        self.count, self.size = count, size

    def blocks(self):
        return [Block(str(at)) for at in range(0, self.count, self.size)]

    def read(self, block, *, start=0):
        first = int(block.id)
        for number in range(first + start, min(first + self.size, self.count)):
            yield Row(str(number), np.full((2, 2, 3), number, np.uint8), (str(number),))


class Digits:
    context_length, vocab_size = 8, 11

    def __call__(self, texts):
        return torch.tensor([[int(letter) + 1 for letter in text.ljust(3, "9")] for text in texts])


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(6, 60),
    size=st.integers(1, 20),
    share=st.integers(1, 3),
    world=st.integers(1, 2),
    window=st.one_of(st.none(), st.integers(1, 40)),
    stop=st.integers(0, 12),
    seed=st.integers(0, 2**40),
)
def test_order(count, size, share, world, window, stop, seed):
    batch_size = share * world
    way = {} if window is None else {"memory": 1, "window_rows": window}

    def make(rank=0, of=1):
        return Loader(
            Numbers(count, size),
            batch_size=batch_size,
            image_spec=SPEC,
            tokenizer=Digits(),
            seed=seed,
            rank=rank,
            world=of,
            **way,
        )

    whole, shares = make(), [make(rank, world) for rank in range(world)]
    keys = []
    for step in range(stop + 4):
        if step == stop:
            again = make()
            again.load_state_dict(whole.state_dict())
        batch = next(whole)
        assert batch.image[:, 0, 0, 0].tolist() == [int(key) for key in batch.extra["keys"]]
        assert batch.extra["keys"] == [key for each in shares for key in next(each).extra["keys"]]
        if step >= stop:
            assert next(again).extra["keys"] == batch.extra["keys"]
            assert again.state_dict() == whole.state_dict()
        keys += batch.extra["keys"]
    one_epoch = keys[: count // batch_size * batch_size]
    assert len(set(one_epoch)) == len(one_epoch)


@given(count=st.integers(0, 500), seed=st.integers(0, 2**63), salt=st.text(max_size=20))
def test_permutation(count, seed, salt):
    order = permutation(count, seed=seed, salt=salt)
    assert sorted(order.tolist()) == list(range(count))
    assert np.array_equal(order, permutation(count, seed=seed, salt=salt))
