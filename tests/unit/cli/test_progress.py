"""What stands for a bar where nobody sees one: a line now and then."""

from __future__ import annotations

import io
import time

import pytest

from tether.cli import progress, screen


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """One number, the time."""
    now = [100.0]
    for module in (screen, progress):
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_bar_without_a_terminal_says_a_line_every_half_minute(clock: list[float]) -> None:
    out = io.StringIO()
    with screen.bars(screen=screen.Screen(file=out)) as bars:
        task = bars.add_task("[embed]", total=4000)
        for done in range(100):
            clock[0] += 1
            bars.update(task, completed=10 * done)
    lines = out.getvalue().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["[embed]: 290 of 4", "[embed]: 590 of 4", "[embed]: 890 of 4"]


def test_a_bar_on_a_terminal_says_no_lines(clock: list[float]) -> None:
    out = io.StringIO()
    with screen.bars(screen=screen.Screen(file=out, force_terminal=True)) as bars:
        task = bars.add_task("embed", total=4000)
        clock[0] += 100
        bars.update(task, completed=10)
    assert "embed: 10" not in out.getvalue()


def test_what_takes_long_without_an_update_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "EVERY", 0.02)
    out = io.StringIO()
    with screen.bars(screen=screen.Screen(file=out)) as bars:
        bars.add_task("one probe", total=None)
        start = time.monotonic()
        while out.getvalue().count("one probe: 0\n") < 3 and time.monotonic() - start < 60:
            time.sleep(0.01)
    said = out.getvalue()
    assert said.count("one probe: 0\n") >= 3
    time.sleep(0.1)
    assert out.getvalue() == said


def test_slow_steps_are_told_every_half_minute(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    record = {"skipped": False, "grad_threshold": 1.0, "grad_norm": 1.0, "images_per_second": 1, "loss": 1.0}
    with progress.TrainingProgress(steps=2000) as shown:
        for step in range(100):
            clock[0] += 10
            shown.show(record | {"step": step, "seconds": 10.0 * (step + 1)})
    said = capsys.readouterr().out.splitlines()
    assert [int(line.split()[1].partition("/")[0]) for line in said] == [*range(1, 101, 3)]


def test_going_back_and_signs_are_said() -> None:
    shown = progress.TrainingProgress(steps=100)
    out = io.StringIO()
    shown.console = screen.Screen(file=out)
    with shown:
        told = {"to": 30, "at": 35, "why": "loss 9, where 4 is the limit", "skipped_batches": 6}
        shown.show({"step": 29, "rollback": told})
        shown.show({"step": 59, "signs": {"chance": "the loss stays [red]"}})
    said = " ".join(out.getvalue().split())
    assert "step 36: loss 9, where 4 is the limit; back to the state after step 30, 6 batches passed over" in said
    assert "step 60: the loss stays [red]" in said
