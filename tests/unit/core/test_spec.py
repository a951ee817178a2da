"""Parts from words: what is accepted, what is refused and what the message says."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from tether.core.component import build, closest, schema, settings
from tether.core.errors import InputError


class Plain:
    def __init__(
        self, *, alpha: float = 0.97, mode: Literal["mean", "limit"] = "mean", steps: int | None = None
    ) -> None:
        self.alpha, self.mode, self.steps = alpha, mode, steps


class Inner:
    def __init__(self, module: torch.nn.Module, *, weight: float) -> None:
        self.module, self.weight = module, weight


class Bare:
    pass


class Library:
    def __init__(self, *, lr: float) -> None:
        raise ValueError("Invalid learning rate")


PARTS = {"plain": Plain, "inner": Inner, "bare": Bare, "library": Library}


def test_a_name_alone_takes_the_defaults():
    part = build("plain", PARTS, where="run.yaml: clipper")
    assert (part.alpha, part.mode, part.steps) == (0.97, "mean", None)


def test_keywords_are_checked_and_passed():
    part = build({"name": "plain", "alpha": 0.5, "mode": "limit", "steps": 3}, PARTS, where="run.yaml: clipper")
    assert (part.alpha, part.mode, part.steps) == (0.5, "limit", 3)


def test_words_from_a_command_line_become_numbers():
    assert build({"name": "plain", "alpha": "0.5"}, PARTS, where="x").alpha == 0.5


def test_only_given_keys_are_passed_on():
    part, keywords = settings({"name": "plain", "steps": 3}, PARTS, where="x")
    assert part is Plain
    assert keywords == {"steps": 3}


def test_code_gives_what_a_configuration_cannot():
    module = torch.nn.Linear(1, 1)
    part = build({"name": "inner", "weight": 2}, PARTS, where="x", module=module)
    assert part.module is module
    assert part.weight == 2.0
    with pytest.raises(InputError, match="unknown key 'module'"):
        build({"name": "inner", "weight": 2, "module": 3}, PARTS, where="x")


def test_a_class_without_constructor_has_no_keys():
    assert schema(Bare).model_fields == {}
    assert isinstance(build("bare", PARTS, where="x"), Bare)


def test_the_mapping_given_is_not_changed():
    spec = {"name": "plain", "alpha": 0.5}
    build(spec, PARTS, where="x")
    assert spec == {"name": "plain", "alpha": 0.5}


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        (
            "plane",
            r"run.yaml: clipper: unknown part 'plane'; did you mean 'plain'\? known: bare, inner, library, plain",
        ),
        ("zzz", "unknown part 'zzz'; known: bare, inner, library, plain"),
        ({"alpha": 1.0}, "expected a part's name or a mapping with 'name'"),
        ({"name": 3}, "expected a part's name or a mapping with 'name'"),
        (
            {"name": "plain", "alfa": 1.0},
            r"clipper \(plain\): unknown key 'alfa'; did you mean 'alpha'\? known: alpha, mode",
        ),
        ({"name": "plain", "alpha": "much"}, r"clipper \(plain\): alpha: .*number.*got 'much'"),
        ({"name": "plain", "mode": "median"}, r"mode: .*'mean' or 'limit', got 'median'"),
        ({"name": "inner"}, "key 'weight' is required"),
        ({"name": "plain", "alpha": "nan"}, r"clipper \(plain\): alpha: expected a finite number, got nan"),
        ({"name": "plain", "steps": 2**63}, "steps: expected an integer of at most 63 bits"),
        ({"name": "plain", 1: 2}, r"clipper \(plain\): 1"),
        (["plain"], "expected a part's name or a mapping with 'name'"),
        (3, "expected a part's name or a mapping with 'name'"),
        ({"name": "library", "lr": -1.0}, r"clipper \(library\): Invalid learning rate"),
    ],
)
def test_mistakes_name_the_file_the_key_and_what_came(spec, match):
    with pytest.raises(InputError, match=match):
        build(spec, PARTS, where="run.yaml: clipper")


def test_every_mistake_is_listed():
    with pytest.raises(InputError) as caught:
        build({"name": "plain", "alfa": 1, "mode": "median"}, PARTS, where="run.yaml: clipper")
    assert len(str(caught.value).splitlines()) == 2


def test_closest_suggests_only_what_is_near():
    assert closest("adamw2", ["adamw", "sgd"]) == "did you mean 'adamw'? known: adamw, sgd"
    assert closest("q", ["adamw", "sgd"]) == "known: adamw, sgd"
    assert closest("q", []) == "known: none"
    many = closest("key 1234", [f"key {number:04}" for number in range(2000)])
    assert many.startswith("did you mean 'key 1234'? known: key 0000, ")
    assert many.endswith("key 0049 and 1,950 more")
    assert closest("stepz", ["step", "steps"]).startswith("did you mean 'steps'?")  # a wrong letter, not one too many


@pytest.mark.parametrize(
    ("name", "known", "suggested"),
    [
        ("learning_rate", ["lr", "eps"], "lr"),
        ("learning_rate", ["optimizer", "steps"], "optimizer.lr"),
        ("learning-rate", ["steps"], None),
        ("loss", ["objective", "clipper"], "objective"),
        ("eval", ["evaluate"], "evaluate.source"),
    ],
)
def test_closest_knows_other_words_for_a_name(name: str, known: list[str], suggested: str | None):
    said = closest(name, known)
    assert said.startswith(f"did you mean {suggested!r}? " if suggested else "known: ")


class Wrapper:
    def __init__(self, *, inner: torch.nn.Module | str = "plain", other: torch.nn.Module | None = None) -> None:
        self.inner, self.other = inner, other


def test_of_a_union_a_configuration_gives_what_can_be_checked():
    assert set(schema(Wrapper).model_fields) == {"inner"}
    parts = {"wrapper": Wrapper}
    assert build({"name": "wrapper", "inner": "bare"}, parts, where="x").inner == "bare"
    with pytest.raises(InputError, match="inner"):
        build({"name": "wrapper", "inner": 3}, parts, where="x")


def test_an_infinity_is_for_the_part_to_judge_unless_all_must_be_finite():
    spec = {"name": "plain", "alpha": "inf"}
    assert build(spec, PARTS, where="x").alpha == float("inf")
    with pytest.raises(InputError, match="alpha: expected a finite number, got inf"):
        build(spec, PARTS, where="x", finite=True)
