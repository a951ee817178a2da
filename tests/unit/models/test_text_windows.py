"""Windows of texts: sizes, masks on either side, and weights."""

import pytest
import torch

from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.models import create
from tether.models.texts.text_windows import SlidingTextEncoder, pool_windows, sliding_windows

TEXT = torch.tensor([[9, 1, 2, 3, 4, 5, 6, 8], [9, 1, 8, 0, 0, 0, 0, 0]])


def test_padding_on_either_side_is_left_out():
    left = torch.tensor([[0, 0, 0, 0, 0, 9, 1, 8]])
    mask = left.ne(0)
    for given in (mask, mask.long()):
        assert sliding_windows(left, given, window=4, step=3).ids.tolist() == [[9, 1, 8, 0]]


def test_a_zero_inside_a_text_is_a_token():
    windows = sliding_windows(torch.tensor([[9, 0, 0, 8]]), window=3, step=2, mode="raw")
    assert windows.ids.tolist() == [[9, 0, 0], [0, 8, 0]]
    assert windows.mask.sum(1).tolist() == [3, 2]
    assert windows.ends.tolist() == [False, True]


def test_every_token_is_in_a_window():
    for length in range(1, 40):
        text = torch.arange(1, length + 1)[None]
        for window, step in ((5, 3), (5, 5), (7, 1)):
            windows = sliding_windows(text, window=window, step=step, mode="raw")
            assert set(windows.ids[windows.mask].tolist()) == set(range(1, length + 1))
            assert windows.counts.tolist() == [len(windows.ids)]


def test_weights():
    windows = sliding_windows(TEXT, window=5, step=4, mode="raw")
    rows = torch.randn(3, 2, dtype=torch.float64)
    assert windows.counts.tolist() == [2, 1]
    torch.testing.assert_close(pool_windows(rows, windows)[0], rows[:2].mean(0))
    torch.testing.assert_close(pool_windows(rows, windows, weights="tokens")[0], (5 * rows[0] + 4 * rows[1]) / 9)
    assert torch.equal(pool_windows(rows, windows, weights="tokens")[1], rows[2])
    with pytest.raises(InputError, match="each of the 3 windows"):
        pool_windows(rows[:2], windows)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"window": 4, "step": 5}, "step: expected 3 to 4"),
        ({"window": 4, "step": 2}, "step: expected 3 to 4"),
        ({"window": 4, "step": 0, "mode": "raw"}, "step"),
        ({"window": 4, "step": 5, "mode": "raw"}, "step: expected 1 to 4"),
        ({"window": 2, "step": 1, "mode": "raw"}, "window"),
        ({"window": 2, "step": 2, "before": 0, "after": 0}, "window"),
    ],
)
def test_steps_that_do_not_fit(settings, match):
    with pytest.raises(InputError, match=match):
        sliding_windows(TEXT, **settings)


def test_a_text_without_tokens_is_refused():
    empty = torch.tensor([[9, 8], [0, 0]])
    with pytest.raises(InputError, match="row 1: expected at least 2 tokens, got 0"):
        sliding_windows(empty, window=4, step=3)
    with pytest.raises(InputError, match="row 1: expected at least 1 tokens, got 0"):
        sliding_windows(empty, empty.ne(0), window=4, step=3, mode="raw")
    with pytest.raises(InputError, match="mask: expected"):
        sliding_windows(empty, empty[:, :1].ne(0))


def test_the_digest_knows_the_windows():
    model = create("tiny")
    digests = {model_digest(one) for one in (model, SlidingTextEncoder(model), SlidingTextEncoder(model, step=20))}
    assert len(digests) == 3
