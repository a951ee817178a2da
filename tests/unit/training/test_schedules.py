from itertools import pairwise

import pytest

from tether.training.schedules import SCHEDULES, Constant, Cosine, Trapezoid


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_warms_up_and_stays_within_one(name):
    schedule = SCHEDULES[name](warmup=10)
    factors = [schedule.factor(step, steps=100) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(factors) == pytest.approx(1.0)
    assert min(factors) >= 0
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(factors[10:]))


def test_cosine_is_half_way_in_the_middle_and_ends_at_the_floor():
    schedule = Cosine(floor=0.1)
    assert schedule.factor(50, steps=100) == pytest.approx(0.55)
    assert schedule.factor(100, steps=100) == pytest.approx(0.1)


def test_trapezoid_falls_in_its_last_share_only():
    schedule = Trapezoid(decay=0.25)
    assert schedule.factor(75, steps=100) == pytest.approx(1.0)
    assert schedule.factor(90, steps=100) == pytest.approx(0.4)


def test_constant_stays():
    assert Constant().factor(99, steps=100) == 1.0


def test_a_warm_up_from_a_start_has_both_ends_in_it():
    schedule = Cosine(warmup=5, start=0.2, floor=0.1)
    factors = [schedule.factor(step, steps=9) for step in range(9)]
    assert factors[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert factors[5:] == [Cosine(floor=0.1).factor(step, steps=4) for step in range(4)]
    assert Cosine(warmup=1, start=0.2).factor(0, steps=9) == 0.2
