"""Charset, orders of reading, and the two decoders of words."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tether.core.errors import InputError
from tether.core.words_read import Texts
from tether.tasks.read import Charset, DualDecoder, PermutedDecoder, cloze_mask, permutation_masks, permutations
from tether.tasks.read.orders import _HALF_OF_FOUR

LETTERS = Charset("abcdef")


def dual(**settings) -> DualDecoder:
    def made(seed: int) -> PermutedDecoder:
        generator = torch.Generator().manual_seed(seed)
        return PermutedDecoder(16, heads=2, charset=LETTERS, max_length=5, generator=generator, **settings)

    return DualDecoder(visual=made(0), cross=made(1)).eval()


def memories(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(batch, 7, 16, generator=generator), torch.randn(batch, 4, 16, generator=generator)


def test_words_there_and_back():
    ids = LETTERS.encode(["face", "", "bad"], longest=4)
    assert ids.tolist() == [[7, 6, 1, 3, 5, 0], [7, 0, 8, 8, 8, 8], [7, 2, 1, 4, 0, 8]]
    logits = torch.nn.functional.one_hot(ids[:, 1:].clamp(max=6), 7) * 50.0
    found = LETTERS.decode(logits)
    assert found.words == ("face", "", "bad")
    assert found.confidence == pytest.approx(np.ones(3))


def test_confidence_counts_the_end_and_nothing_after_it():
    logits = torch.tensor([[[0.0, 2.0], [2.0, 0.0], [0.0, 9.0]]])
    sure = float(torch.tensor([2.0, 0.0]).softmax(0)[0])
    assert Charset("a").decode(logits).confidence[0] == pytest.approx(sure**2)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cab", "deface"], "word 1, 'deface': expected at most 5 characters, got 6"),
        (["caB"], "word 0, 'caB': unknown characters 'B'"),
        ([], "at least one"),
        ("cab", "list"),
    ],
)
def test_words_that_are_refused(words, told):
    with pytest.raises(InputError, match=told):
        LETTERS.encode(words, longest=5)


def test_many_characters_and_long_words_take_no_time():
    letters = "".join(map(chr, range(0x10000, 0x10000 + 100_000)))
    assert Charset(letters).classes == 100_001
    with pytest.raises(InputError, match="expected each once") as caught:
        Charset(letters * 2)
    assert len(str(caught.value)) < 300
    for word in ("a" * 10**6, letters):
        with pytest.raises(InputError, match="word 0") as caught:
            Charset("abc").encode([word], longest=10**7 if word == letters else 5)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("letter", ["\x1b", "\t", "\r", "\0", "\u202e", "\x9b"])
def test_what_a_terminal_obeys_is_no_letter(letter):
    with pytest.raises(InputError, match="expected letters"):
        Charset(f"ab{letter}")


def test_characters_twice_and_spelling():
    with pytest.raises(InputError, match="got 'a'"):
        Charset("aba")
    with pytest.raises(InputError, match="none"):
        Charset("")
    assert LETTERS.spell("F-Ace x") == "face"
    assert Charset("ABC").spell("cab") == "CAB"
    assert len(Charset().characters) == 94


@pytest.mark.parametrize("length", range(2, 8))
@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("n", [2, 6, 24])
def test_orders(length, mirrored, n):
    orders = permutations(length, n, mirrored=mirrored, generator=torch.Generator().manual_seed(1))
    assert orders[0].tolist() == list(range(length + 2))
    assert orders[1].tolist() == [0, *range(length + 1, 0, -1)]
    assert all(sorted(order) == list(range(length + 2)) for order in orders.tolist())
    inner = [tuple(order) for order in orders[:, 1:].tolist()]
    if length < 5:
        assert len(set(inner)) == len(inner) == min(n, len(list(itertools.permutations(range(length)))))
    if mirrored:
        assert torch.equal(orders[2::2, 1:-1], orders[3::2, 1:-1].flip(1))


def test_half_of_four_has_no_order_with_its_reverse():
    orders = list(itertools.permutations(range(4)))
    half = {orders[index] for index in _HALF_OF_FOUR}
    assert len(half) == 12
    assert not half & {order[::-1] for order in half}


def test_short_words_and_odd_numbers():
    assert permutations(0, 6).tolist() == [[0, 1]]
    assert permutations(1, 6).tolist() == [[0, 1, 2]]
    with pytest.raises(InputError, match="even"):
        permutations(5, 3)
    with pytest.raises(InputError, match="order"):
        permutation_masks(torch.tensor([1, 0, 2]))


def test_masks():
    masks = permutation_masks(torch.tensor([0, 2, 1, 3]))
    assert masks.content.int().tolist() == [[1, 0, 0], [1, 1, 1], [1, 0, 1]]
    assert masks.query.int().tolist() == [[1, 0, 1], [1, 0, 0], [1, 1, 1]]
    assert cloze_mask(4, 3).int().tolist() == [[1, 0, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1]]
    assert cloze_mask(2, 3).int().tolist() == [[1, 0, 1], [1, 1, 0]]


def test_a_character_depends_on_what_it_may_see_alone():
    decoder, (image, _) = dual().visual, memories(1)
    seen = permutation_masks(torch.tensor([0, 3, 1, 2, 4]))
    first, second = (LETTERS.encode([word], longest=5)[:, :-1] for word in ("abc", "fbc"))
    one, other = (decoder(ids, image, query_mask=seen.query, content_mask=seen.content) for ids in (first, second))
    same = (one == other).all(-1)[0].tolist()
    assert same == [True, False, True, False]  # the second character and the end see the first one


@pytest.mark.parametrize("depth", [1, 2])
def test_rows_do_not_depend_on_their_batch(depth):
    decoder, (image, text) = dual(depth=depth), memories(3)
    whole = decoder.read(image, text_memory=lambda guess: text, refine=2, length=5)
    alone = decoder.read(image[1:2], text_memory=lambda guess: text[1:2], refine=2, length=5)
    torch.testing.assert_close(whole.cross[1:2], alone.cross)
    torch.testing.assert_close(whole.visual[1:2], alone.visual)


def test_reading_stops_when_all_have_ended():
    decoder, (image, text) = dual(depth=2), memories()
    with torch.no_grad():
        decoder.visual.head.bias[0] += 9
    assert decoder.read(image, text_memory=lambda guess: text, refine=0).cross.shape == (2, 1, 7)
    assert decoder.read(image, text_memory=lambda guess: text, refine=2).cross.shape == (2, 6, 7)
    assert decoder.read(image, text_memory=lambda guess: text, refine=0, length=3).cross.shape == (2, 4, 7)
    assert decoder.read(image, text_memory=lambda guess: text, length=50).cross.shape == (2, 6, 7)


def test_gradients_of_the_second_branch_reach_its_text_but_neither_image_nor_guess():
    decoder, (image, text) = dual(), memories()
    image.requires_grad_()
    text.requires_grad_()
    ids, guesses = LETTERS.encode(["abc", "fed"], longest=5), []

    def told(guess):
        guesses.append(guess)
        return text

    orders = permutations(3, 6)
    decoder.loss(ids, image, text_memory=told, orders=orders).backward()
    assert len(guesses) == len(orders)
    assert guesses[0].shape == (2, 4)
    assert text.grad is not None
    assert float(text.grad.abs().sum()) > 0
    visual = image.grad.clone()
    image.grad = None
    with torch.no_grad():
        decoder.cross.head.weight.mul_(3)
    decoder.loss(ids, image, text_memory=told, orders=orders).backward()
    torch.testing.assert_close(image.grad, visual)


def test_empty_words_and_orders_that_do_not_fit():
    decoder, (image, text) = dual(), memories()
    ids = LETTERS.encode(["", ""], longest=5)
    loss = decoder.loss(ids, image, text_memory=lambda guess: text, orders=permutations(0))
    assert torch.isfinite(loss)
    with pytest.raises(InputError, match=r"orders: expected \(k, 2\)"):
        decoder.loss(ids, image, text_memory=lambda guess: text, orders=permutations(3))


def test_decoders_that_are_refused():
    with pytest.raises(InputError, match="heads"):
        PermutedDecoder(16, heads=3, charset=LETTERS)
    one, other = (PermutedDecoder(16, heads=2, charset=Charset(letters)) for letters in ("ab", "ac"))
    with pytest.raises(InputError, match="charset"):
        DualDecoder(visual=one, cross=other)
    with pytest.raises(InputError, match="memory: expected"):
        one(torch.tensor([[3]]), torch.randn(1, 4, 8))
    with pytest.raises(InputError, match="ids: expected 1 to 26"):
        one(torch.zeros(1, 27, dtype=torch.int64), torch.randn(1, 4, 16))


def test_texts():
    with pytest.raises(InputError, match="one for each of 2"):
        Texts(("a", "b"), np.ones(1))
    with pytest.raises(InputError, match=r"0\.\.1"):
        Texts(("a",), np.array([np.nan]))
