"""Constraints and the split of NormBank against the release; everything from the file."""

from __future__ import annotations

from loading import load

from tether.data.sets.norms import format_constraints, group_split, parse_constraints

V = load("normbank")
SIDES = ("train", "dev", "test")


def test_constraints_both_ways():
    told = V.meta["constraints"]
    for text, parts in zip(told["strings"], told["parsed"], strict=True):
        found = parse_constraints(text)
        assert [[one.who, one.name, one.relation, one.value] for one in found] == parts
        assert format_constraints(found) == text


def test_the_split_is_the_one_of_the_release():
    found = group_split(V.meta["keys"], seed=V.meta["seed"])
    assert [SIDES.index(side) for side in found] == V["split"].tolist()
