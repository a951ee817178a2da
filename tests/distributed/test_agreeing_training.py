"""Two views guided by one look, and heads with batch norm: two processes walk the path of one."""

from __future__ import annotations

import pytest
from test_training import assert_same_path, run

GUIDED = "{patches: attentive, attended: whole_image, want: state}"
AGREEING = [
    "step={teacher: {ema: {momentum: 0.5}}, views: {text: {}, "
    f"image: {GUIDED}, second_image: {GUIDED}, whole_image: {{encoder: teacher, want: state}}}}, "
    "terms: [{name: objective, weight: 0.5}, {name: objective, image: second_image, weight: 0.5}, simclr, byol], "
    "heads: {simclr: {name: projection, inputs: state, hidden: 32, layers: 3, out: 16, last: affine}, "
    "projector: {name: projection, inputs: state, hidden: 32, out: 16}, "
    "predictor: {name: projection, inputs: 16, hidden: 32, out: 16}}}",
    "contents={crops: {image: {scale: [0.5, 1.0]}, second_image: {scale: [0.5, 1.0]}, "
    "whole_image: {around: [image, second_image]}}}",
    "steps=3",
    "clipper=global_norm",
]

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(1, tmp_path_factory.mktemp("alone") / "run", *AGREEING)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_two_processes_equal_one(tmp_path, alone, sharding):
    assert_same_path(run(2, tmp_path / "run", f"sharding={sharding}", *AGREEING), alone)
