"""Trainings of the stability bench: paired, repeatable, spoiled as the fault says, and kept on disk."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tether_lab.stability import bench
from tether_lab.stability.faults import FAULTS
from tether_lab.stability.guard_costs import guard_costs
from tether_lab.stability.guards import guards
from tether_lab.stability.models import MODELS, subject
from tether_lab.stability.runs import run

pytestmark = pytest.mark.slow

STEPS = 20
PLANTED = FAULTS["scaled_loss"].planted(STEPS)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clean():
    return run("language", fault="clean", guard=guards()["none"], seed=0, steps=STEPS)


def test_a_run_can_be_repeated_bit_for_bit(clean):
    again = run("language", fault="clean", guard=guards()["none"], seed=0, steps=STEPS)
    assert again.trace.losses == clean.trace.losses
    assert again.final == clean.final
    assert (
        run("language", fault="clean", guard=guards()["none"], seed=1, steps=STEPS).trace.losses != clean.trace.losses
    )


def test_learns_and_is_looked_at(clean):
    assert clean.final < clean.looks[0][1]
    assert clean.looks[0][1] == pytest.approx(subject("language").chance, abs=0.1)
    assert clean.looks[-1] == (STEPS, clean.final)
    assert clean.trace.clipped == 0


@pytest.mark.parametrize("fault", ["scaled_loss", "tensor_x1000", "noise", "swapped"])
def test_faults_of_single_steps_strike_there_and_nowhere_before(clean, fault):
    spoiled = run("language", fault=fault, guard=guards()["none"], seed=0, steps=STEPS)
    ours, theirs, first = spoiled.trace, clean.trace, FAULTS[fault].planted(STEPS)[0]
    assert ours.losses[:first] == theirs.losses[:first]
    assert ours.norms[:first] == theirs.norms[:first]
    assert (ours.losses[first], ours.norms[first]) != (theirs.losses[first], theirs.norms[first])
    assert ours.losses[first + 1] != theirs.losses[first + 1]
    assert spoiled.looks == ()
    if fault == "scaled_loss":  # it scales the gradient and is not logged
        assert ours.norms[first] == pytest.approx(100 * theirs.norms[first], rel=1e-3)
        assert ours.losses[first] == theirs.losses[first]


@pytest.mark.parametrize("fault", ["rate_x3", "bf16", "int4"])
def test_faults_of_the_whole_run_change_it(clean, fault):
    spoiled = run("language", fault=fault, guard=guards()["none"], seed=0, steps=STEPS)
    assert spoiled.trace.losses[1:] != clean.trace.losses[1:]
    assert spoiled.final is not None


@pytest.mark.parametrize("model", MODELS)
def test_bad_contents_draw_as_much_chance_as_good_ones(model):
    who = subject(model)
    after = []
    for contents in ("whole", "noise", "swapped"):
        draw = torch.Generator().manual_seed(3)
        inputs, targets = who.batch(draw, contents=contents)
        after.append(who.batch(draw, contents="whole"))
        whole = who.batch(torch.Generator().manual_seed(3), contents="whole")
        if contents != "whole":
            assert not (torch.equal(inputs, whole[0]) and torch.equal(targets, whole[1]))
    assert all(torch.equal(left, right) for left, right in zip(after[0], after[1], strict=True))
    assert all(torch.equal(left, right) for left, right in zip(after[0], after[2], strict=True))


def test_the_clip_is_spoiled_in_the_tensor_it_names():
    who = subject("clip")
    assert who.spoiled in dict(who.model(0).named_parameters())
    clean, spoiled = (
        run("clip", fault=fault, guard=guards()["global_norm"], seed=0, steps=STEPS)
        for fault in ("clean", "tensor_x1000")
    )
    first = PLANTED[0]
    assert spoiled.trace.norms[first] > 10 * clean.trace.norms[first]
    assert spoiled.trace.scales[first] == pytest.approx(1 / spoiled.trace.norms[first], rel=1e-3)
    assert clean.final < clean.looks[0][1]


def test_a_ruined_run_goes_on_and_has_no_final_loss():
    ruined = replace(guards()["sgd"], settings={"lr": 1e29})
    found = run("language", fault="clean", guard=ruined, seed=0, steps=STEPS)
    assert found.final is None
    assert len(found.trace.losses) == STEPS
    assert None in found.trace.losses


def two_runs() -> bench.BenchPlan:
    return bench.BenchPlan(("language",), ("scaled_loss",), {"global_norm": guards()["global_norm"]}, (0, 1), STEPS)


@pytest.mark.nightly
def test_finished_runs_are_cached_and_two_processes_give_what_one_gives(monkeypatch, tmp_path):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "two"))
    seen = []
    two = bench.outcomes(two_runs(), jobs=2, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]
    done = []
    real = bench.run
    monkeypatch.setattr(bench, "run", lambda *given, **named: done.append(named["seed"]) or real(*given, **named))
    assert bench.outcomes(two_runs()) == two
    assert done == []
    next(tmp_path.rglob("*global_norm*/seed-1.json")).unlink()  # as an interruption leaves it
    assert [one.trace for one in bench.outcomes(two_runs())] == [one.trace for one in two]
    assert done == [1]
    bench.outcomes(two_runs(), fresh=True)
    assert done == [1, 0, 1]


def test_costs_are_told_for_every_guard():
    some = {name: guards()[name] for name in ("none", "global_norm", "sgd")}
    found = guard_costs(some, rounds=1, calls=1)
    assert list(found) == list(some)
    assert all(cost.low <= cost.ratio <= cost.high for cost in found.values())
    assert found["global_norm"].ratio > 0
