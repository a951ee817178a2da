"""The attacks against what they do when written down candidate by candidate, and what they refuse."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.methods.leaf.attack import charmer_attack, encode_read, leaf_attack, random_typos
from tether.methods.leaf.typos import ALPHABET, WordConstraint, edit, slot_count
from tether.models import create
from tether.models.texts.truncation_check import FitsContext
from tether.models.tokenizer import TextCutWarning

TEXTS = ["a small red circle", "", "two dogs"]
WIDE = torch.randn(128, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
OBJECTIVES = ("l2", "negl2", "sim", "dissim")


def toy(texts):
    """Order counts, and no two texts of a few letters have one row."""
    weights = torch.linspace(0.5, 1.5, 64, dtype=torch.float64)[:, None]
    rows = [(weights[: len(text)] * WIDE[[min(ord(each), 127) for each in text]]).sum(0) for text in texts]
    return torch.stack(rows).tanh()


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def value(row, anchor, objective):
    far, near = float((row - anchor).square().sum()), float(F.cosine_similarity(row, anchor, dim=0))
    return {"l2": far, "negl2": -far, "sim": near, "dissim": -near}[objective]


def first_best(values):
    return max(range(len(values)), key=lambda at: (values[at], -at))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("rule", [None, "strict", "le"])
def test_leaf_is_a_loop_over_candidates(objective, rule):
    k, rho = 3, 7
    anchors = torch.randn(3, 6, generator=chance(1), dtype=torch.float64)
    chars = torch.randint(len(ALPHABET), (k, 3, rho), generator=chance(2))
    slots = torch.zeros(k, 3, rho, dtype=torch.int64)
    slots[:, [0, 2]] = torch.randint(2 * 5, (k, 2, rho), generator=chance(3))
    constraint = rule and WordConstraint(["a", "small", "red", "circle", "two", "dogs", "cd"], rule=rule)
    found = leaf_attack(
        toy, TEXTS, anchors, rho=rho, k=k, constraint=constraint, objective=objective, slots=slots, chars=chars
    )
    for row, text in enumerate(TEXTS):
        for number in range(k):
            start = text

            def best(tried, start=start, row=row):
                tried = [new if not constraint or constraint([new], [start])[0] else start for new in tried]
                values = [value(toy([one])[0], anchors[row], objective) for one in tried]
                return first_best(values), tried[first_best(values)], max(values)

            places = slots[number, row].tolist()
            at, _, _ = best([edit(start, slot, ord(" "), alternative=-1) for slot in places])
            codes = [ALPHABET[place] for place in chars[number, row].tolist()]
            _, text, reached = best([edit(start, places[at], code, alternative=-1) for code in codes])
            assert found.trace[number].slots[row] == places[at]
            assert float(found.trace[number].values[row]) == pytest.approx(reached, abs=1e-12)
        assert found.texts[row] == text
    torch.testing.assert_close(found.features, toy(found.texts))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_text_is_attacked_as_it_would_be_alone(objective):
    anchors = torch.randn(3, 6, generator=chance(1), dtype=torch.float64)
    together = charmer_attack(toy, TEXTS, anchors, n=3, k=2, objective=objective)
    for row, text in enumerate(TEXTS):
        assert charmer_attack(toy, [text], anchors[row, None], n=3, k=2, objective=objective).texts == (
            together.texts[row],
        )


def test_charmer_with_every_place_finds_the_best_edit():
    alphabet, anchors = [-1, *map(ord, "abz")], toy(TEXTS)
    found = charmer_attack(toy, TEXTS, anchors, n=99, alphabet=alphabet)
    for row, text in enumerate(TEXTS):
        every = itertools.product(range(slot_count(text)), alphabet)
        best = max(value(toy([edit(text, *one, alternative=-1)])[0], anchors[row], "l2") for one in every)
        assert float(found.trace[0].values[row]) == pytest.approx(best, abs=1e-12)
    last = charmer_attack(toy, ["ab"], toy(["ab"]), n=99, alphabet=[ord("b"), ord("~")])  # the last place and character
    assert last.encodings == 5 + 9  # of the ten edits two give "abb"


def test_draws_are_without_replacement_where_there_are_enough():
    seen = []

    def encode(texts):
        seen.append(list(texts))
        return toy(texts)

    leaf_attack(encode, ["abcdef"], toy(["x"]), rho=13, generator=chance())
    assert sorted(seen[1]) == sorted({edit("abcdef", slot, 32, alternative=-1) for slot in range(13)})
    again = leaf_attack(toy, ["ab"], toy(["x"]), rho=200, generator=chance())
    assert again.encodings <= 5 + 96
    one, other = (leaf_attack(toy, TEXTS, toy(TEXTS), rho=5, k=2, generator=chance(seed)) for seed in (4, 4))
    assert one.texts == other.texts
    assert leaf_attack(toy, TEXTS, toy(TEXTS), rho=5, k=2, generator=chance(5)).texts != one.texts


def test_a_round_may_make_it_worse_and_nothing_keeps_the_best():
    anchors = toy(TEXTS)
    slots, chars = torch.zeros(1, 3, 1, dtype=torch.int64), torch.full((1, 3, 1), ALPHABET.index(ord("q")))
    found = leaf_attack(toy, TEXTS, anchors, rho=1, objective="negl2", slots=slots, chars=chars)
    assert found.texts == tuple(f"q{text}" for text in TEXTS)
    assert found.trace[0].values.max() < 0  # it was 0 before


def test_best_of_random_edits():
    found = random_typos(toy, TEXTS, toy(TEXTS), tries=30, generator=chance())
    assert found.encodings <= 90
    one = random_typos(toy, TEXTS, toy(TEXTS), tries=1, generator=chance())
    assert (found.trace[0].values > one.trace[0].values).sum() >= 2
    slots, chars = torch.tensor([[[0, 1], [0, 0], [3, 4]]]), torch.tensor([[[1, 0], [2, 3], [0, 5]]])
    given = random_typos(toy, TEXTS, toy(TEXTS), tries=2, slots=slots, chars=chars)
    for row, text in enumerate(TEXTS):
        tried = [
            edit(text, *one, alternative=-1)
            for one in zip(slots[0, row].tolist(), [ALPHABET[at] for at in chars[0, row].tolist()], strict=True)
        ]
        assert given.texts[row] == max(tried, key=lambda new, row=row: value(toy([new])[0], toy(TEXTS)[row], "l2"))


def test_a_label_that_has_flipped_is_left_alone():
    classes = toy(["red circle", "two dogs", "cat"])
    texts, labels = ["two dogs", "red circlé", "a"], torch.tensor([1, 0, 2])
    start = F.normalize(toy(texts), dim=1) @ F.normalize(classes, dim=1).T
    wrong = int((start.argmax(dim=1) != labels).nonzero()[0])
    for attack, more in (
        (charmer_attack, {"n": 4}),
        (leaf_attack, {"rho": 9, "generator": chance()}),
        (random_typos, {"tries": 9, "generator": chance()}),
    ):
        found = attack(toy, texts, classes, k=6, objective="margin", labels=labels, **more)
        assert found.texts[wrong] == texts[wrong]
        assert found.trace[0].slots[wrong] == -1
        values = torch.stack([one.values for one in found.trace])
        for row in range(3):
            flipped = (values[:, row] > 0).nonzero()
            if len(flipped):
                assert (values[int(flipped[0]) :, row] == values[int(flipped[0]), row]).all()
        logits = F.normalize(found.features, dim=1) @ F.normalize(classes, dim=1).T
        assert (logits.argmax(dim=1) != labels).tolist() == (values[-1] > 0).tolist()
    assert (charmer_attack(toy, texts, classes, k=6, n=9, objective="margin", labels=labels).trace[-1].values > 0).all()


def test_no_round_is_no_change():
    found = leaf_attack(toy, TEXTS, toy(TEXTS), k=0)
    assert found.texts == tuple(TEXTS)
    assert found.trace == ()
    torch.testing.assert_close(found.features, toy(TEXTS))


def test_what_is_read_alike_is_embedded_once_and_is_equal():
    model, asked = create("tiny", seed=1).eval(), []
    encode, inner = encode_read(model), model.encode_text

    def count(ids, **more):
        asked.append(len(ids))
        return inner(ids, **more)

    model.encode_text = count
    rows = encode(["a cat", "A  CAT ", "dog", "a cat"])
    assert sum(asked) == 2
    assert torch.equal(rows[0], rows[1])
    torch.testing.assert_close(rows[2], inner(model.tokenizer(["dog"])).pooled[0].detach())
    for first, second in (("B", "b"), ("b", "B")):
        chars = torch.tensor([[[ALPHABET.index(ord(first)), ALPHABET.index(ord(second))]]])
        found = leaf_attack(encode, ["a"], rows[:1], rho=2, slots=torch.tensor([[[2, 2]]]), chars=chars)
        assert found.texts == (f"a{first}",)  # the tokenizer knows no capitals: the first of equal ones


def test_what_fits_into_the_context():
    model = create("tiny", seed=1).eval()
    full = " ".join(["cat"] * (model.tokenizer.context_length - 2))
    fits = FitsContext(model)
    assert fits.whole([full, f"{full} x", ""]) == [True, False, True]
    assert fits.whole([]) == []
    assert fits([f"{full} x", f"{full} x", full], [full, f"{full} y", full]) == [False, True, True]
    encode = encode_read(model)
    settings = {"rho": 30, "k": 2, "generator": chance()}
    with pytest.warns(TextCutWarning):
        assert not fits.whole(leaf_attack(encode, [full], encode([full]), **settings).texts)[0]
    assert fits.whole(leaf_attack(encode, [full], encode([full]), constraint=fits, **settings).texts)[0]


BAD = {
    "no text": ({"texts": [], "anchors": torch.zeros(0, 6)}, "at least one"),
    "one string": ({"texts": "abc"}, "expected"),
    "anchors": ({"anchors": torch.zeros(2, 6)}, "a row for each of 3 texts"),
    "width": ({"anchors": torch.zeros(3, 5)}, "as wide as the anchors"),
    "rho": ({"rho": 0}, "rho: expected"),
    "k": ({"k": -1}, "k: expected"),
    "alphabet": ({"alphabet": []}, "alphabet: expected"),
    "no generator": ({"generator": None}, "generator: expected one"),
    "slots": ({"slots": torch.zeros(1, 3, 4, dtype=torch.int64)}, r"slots: expected \(1, 3, 5\)"),
    "slot": ({"slots": torch.full((1, 3, 5), 4)}, "slot: expected 0 to 0 in ''"),
    "chars": ({"chars": torch.full((1, 3, 5), 96)}, "positions in an alphabet of 96"),
    "labels": ({"labels": torch.zeros(3, dtype=torch.int64)}, "'margin' alone"),
    "margin": ({"objective": "margin"}, "'margin' alone"),
    "label": ({"objective": "margin", "labels": torch.tensor([0, 1, 3])}, "one of 3"),
    "NaN": ({"encode": lambda texts: toy(texts) * torch.nan}, "finite"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name):
    given = {"encode": toy, "texts": TEXTS, "anchors": toy(TEXTS), "rho": 5, "generator": chance()} | BAD[name][0]
    with pytest.raises(InputError, match=BAD[name][1]):
        leaf_attack(given.pop("encode"), given.pop("texts"), given.pop("anchors"), **given)
