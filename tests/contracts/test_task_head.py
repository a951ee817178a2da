"""What every task head promises."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tether.core.errors import InputError
from tether.core.protocols import TaskHead
from tether.core.types import Batch
from tether.models import create
from tether.models.towers.clip import Clip
from tether.tasks.classify import CLASSIFIER_HEADS
from tether.tasks.segment import SEGMENTER_HEADS

HEADS = {**CLASSIFIER_HEADS, **SEGMENTER_HEADS}

EXCEPTIONS: dict[tuple[str, str], str] = {
    ("parts", "test_preparing_again_forgets"): "it refuses support pictures, as it learns nothing from them",
    ("prompt_pairs", "test_preparing_again_forgets"): "it refuses support pictures, as it learns nothing from them",
}
"""(head, test) -> reason."""

CLASSES = ["cat", "dog", "cow"]


@pytest.fixture(scope="module")
def model() -> Clip:
    return create("tiny").eval()


@pytest.fixture(params=sorted(HEADS))
def head(request: pytest.FixtureRequest) -> TaskHead:
    reason = EXCEPTIONS.get((request.param, request.function.__name__))
    if reason:
        pytest.skip(reason)
    return HEADS[request.param]()


def pixels(n: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def tensors(answer: object) -> dict[str, torch.Tensor]:
    assert dataclasses.is_dataclass(answer)
    values = {field.name: getattr(answer, field.name) for field in dataclasses.fields(answer)}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def test_it_is_one(head: TaskHead) -> None:
    assert isinstance(head, TaskHead)


def test_the_answer_is_frozen_and_finite(head: TaskHead, model: Clip) -> None:
    answer = head.prepare(model, CLASSES).predict(pixels(4))
    assert answer.__dataclass_params__.frozen
    found = tensors(answer)
    assert found
    for value in found.values():
        assert len(value) == 4
        assert torch.isfinite(value).all()
        assert not value.requires_grad


def test_one_picture_equals_its_row_among_many(head: TaskHead, model: Clip) -> None:
    head = head.prepare(model, CLASSES)
    many = tensors(head.predict(pixels(6)))
    for i in range(6):
        for name, value in tensors(head.predict(pixels(6)[i : i + 1])).items():
            assert torch.allclose(value[0], many[name][i], atol=1e-5), name


def test_the_order_of_the_prompts_is_the_order_of_the_columns(head: TaskHead, model: Clip) -> None:
    there = tensors(head.prepare(model, CLASSES).predict(pixels(3)))
    back = tensors(head.prepare(model, CLASSES[::-1]).predict(pixels(3)))
    for name, value in there.items():
        if value.ndim == 2 and value.shape[1] == len(CLASSES):
            assert torch.allclose(value, back[name].flip(1), atol=1e-5), name


def test_preparing_changes_nothing_in_the_model(head: TaskHead, model: Clip) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    head.prepare(model, CLASSES).predict(pixels(2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_preparing_again_forgets(head: TaskHead, model: Clip) -> None:
    support = [Batch(pixels(8), torch.empty(0, 0, dtype=torch.int64), {"labels": torch.arange(8) % 3})]
    plain = tensors(head.prepare(model, CLASSES).predict(pixels(3)))
    head.prepare(model, CLASSES, support=support).predict(pixels(3))
    again = tensors(head.prepare(model, CLASSES).predict(pixels(3)))
    assert all(torch.equal(value, again[name]) for name, value in plain.items())


def test_bad_input(head: TaskHead, model: Clip) -> None:
    with pytest.raises(InputError):
        head.predict(pixels(1))
    with pytest.raises(InputError):
        head.prepare(model, [])
    with pytest.raises(InputError, match="cat"):
        head.prepare(model, ["cat", "dog", "cat"])
    with pytest.raises(InputError):
        head.prepare(model, CLASSES, support=[])
    with pytest.raises(InputError):
        head.prepare(model, CLASSES).predict(torch.full((1, 3, 32, 32), torch.nan))
