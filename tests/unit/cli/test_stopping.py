"""When Ctrl-C and SIGTERM are a request, and when they stop at once; in processes of their own, as they get signals."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from processes import Child
from tether.cli.stopping import Stopping, Terminated

pytestmark = pytest.mark.slow


def told(function: Callable[[], None]) -> str:
    """What a process that runs the function writes on standard error; it must end well."""
    child = Child(function)
    _, said = child.communicate()
    assert child.returncode == 0, said
    return said


def before_the_first_step() -> None:
    with Stopping():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)


def between_steps() -> None:
    with Stopping() as stopping:
        assert not stopping.asked()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stopping.asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def after_the_last_step() -> None:
    with Stopping() as stopping:
        stopping.asked()
        stopping.last("stop")
        signal.raise_signal(signal.SIGTERM)
        assert stopping.asked()
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
        stopping.asked()
        signal.raise_signal(signal.SIGTERM)


def while_it_is_finished() -> None:
    with Stopping() as stopping:
        stopping.last("finish")
        stopping.asked()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_nobody_is_asked_before_the_first_step():
    assert told(before_the_first_step) == ""


def test_between_steps_it_is_a_request_and_a_second_ctrl_c_is_none():
    assert "stopping after this step, with a checkpoint" in told(between_steps)


def test_after_the_last_step_it_stops_at_once_until_another_loop_asks():
    told(after_the_last_step)


def test_what_would_be_lost_is_finished():
    assert "all steps are done" in told(while_it_is_finished)
