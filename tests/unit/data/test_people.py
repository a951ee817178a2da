"""Made people: the same row each time, a caption that is true, masks that fit what is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tether.core.errors import InputError
from tether.data import open_source
from tether.data.sets.people import GARMENTS, PARTS, PeopleSet, described, draw_figure

PEOPLE = PeopleSet(rows=12)


@pytest.mark.parametrize("size", [16, 32, 64, 96])
def test_rows_are_the_same_whatever_was_read_before(size: int) -> None:
    source = open_source(f"people:rows=12,size={size}", where="test")
    block = source.blocks()[0]
    whole, part = list(source.read(block)), list(source.read(block, start=7))
    assert [row.key for row in whole[7:]] == [row.key for row in part]
    for one, other in zip(whole[7:], part, strict=True):
        assert np.array_equal(one.image, other.image)
        assert one.image.shape == (size, size, 3)
        assert one.meta["labels"].shape == (size, size)


def test_splits_and_seeds_differ() -> None:
    persons = [PeopleSet(rows=1, seed=seed, split=split).person(0) for seed in (0, 1) for split in ("train", "test")]
    assert len({described(one) + str(one.x) for one in persons}) == 4


def test_every_part_is_seen_and_looks_are_told() -> None:
    for row in range(12):
        person = PEOPLE.person(row)
        _, parts = draw_figure(person)
        assert set(np.unique(parts)) == set(range(len(PARTS)))
        text = described(person)
        assert all(word in text for word in (person.colour, person.garment, f"with {person.sleeve} sleeves"))
        assert (person.pattern in text) == (person.pattern != "plain")
    assert described(replace(PEOPLE.person(0), colour="orange", pattern="plain", garment="suit")).startswith(
        "a person in an orange suit with"
    )


def test_clothes_change_and_head_ground_and_parts_do_not() -> None:
    person = PEOPLE.person(0)
    pixels, _ = draw_figure(person)
    plain = replace(person, colour="red", pattern="plain", sleeve="short")
    for change in ({"colour": "green"}, {"pattern": "dotted"}, {"sleeve": "long"}):
        other, same = draw_figure(plain)
        changed, kept = draw_figure(replace(plain, **change))
        moved = (other != changed).any(axis=2)
        assert moved.any()
        for part in ("ground", "head"):  # but for the smooth rim
            assert moved[(same == PARTS.index(part)) & (kept == PARTS.index(part))].mean() < 0.06
        assert (same != kept).mean() < 0.02
    assert all(np.array_equal(draw_figure(person)[0], pixels) for _ in range(2))
    assert {PeopleSet(rows=60).person(row).garment for row in range(60)} == set(GARMENTS)


@pytest.mark.parametrize("index", [-1, 12])
def test_a_row_that_is_not_there_is_refused(index: int) -> None:
    with pytest.raises(InputError, match=f"row {index} asked of 12"):
        PEOPLE.row(index)
