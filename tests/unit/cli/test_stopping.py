"""When Ctrl-C and SIGTERM are a request, and when they stop at once."""

import signal

import pytest

from tether.cli.stopping import Stopping, Terminated


def test_nobody_is_asked_before_the_first_step():
    with Stopping():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)


def test_between_steps_it_is_a_request_and_a_second_ctrl_c_is_none(capfd):
    with Stopping() as stopping:
        assert not stopping.asked()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stopping.asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert "stopping after this step, with a checkpoint" in capfd.readouterr().err


def test_after_the_last_step_it_stops_at_once_until_another_loop_asks():
    with Stopping() as stopping:
        stopping.asked()
        stopping.last("stop")
        signal.raise_signal(signal.SIGTERM)
        assert stopping.asked()
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
        stopping.asked()
        signal.raise_signal(signal.SIGTERM)


def test_what_would_be_lost_is_finished(capfd):
    with Stopping() as stopping:
        stopping.last("finish")
        stopping.asked()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert "all steps are done" in capfd.readouterr().err
