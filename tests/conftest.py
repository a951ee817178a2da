"""Shared by all tests: one thread, a cache of their own, no network."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_HOLDS = """
import sys, time
from pathlib import Path
from tether.core.locks import locked
with locked(Path(sys.argv[1]), purpose=sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""
_LISTED = 20  # failures that one command names
_AGAIN = "tether/again"  # key of the command in pytest's cache
_KERNELS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKLDNN_MAX_CPU_ISA", "OMP_NUM_THREADS")

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
settings.register_profile("loaded", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded")  # a machine with other work is slow, and no test is about time


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of our own."""
    parser.addoption(
        "--last-bits",
        type=int,
        metavar="SEED",
        help="move results of torch by units in the last place, as another processor would",
    )
    parser.addoption("--earlier-failures", action="store_true", help="name what failed in the run before, too")
    parser.addoption("--tenth", metavar="COMMIT", help="run the tenth of the nightly tests that a commit draws")
    parser.addoption("--paper", metavar="SLUG", help="run only what is tried for this paper, a name or a class of it")


def pytest_report_header(config: pytest.Config) -> str | None:
    """What was drawn, so that it can be run again."""
    commit = config.getoption("--tenth")
    return f"a tenth of nightly: python -m pytest --tenth {commit}" if commit else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tenth that ``--tenth`` asks for, and what ``--paper`` does."""
    if slug := config.getoption("--paper"):
        of_paper = _of_paper(slug)
        config.hook.pytest_deselected(items=[item for item in items if not of_paper(item)])
        items[:] = filter(of_paper, items)
    commit = config.getoption("--tenth")
    if commit:
        drawn: dict[bool, list[pytest.Item]] = {True: [], False: []}
        for item in items:
            lot = hashlib.blake2b(f"{commit} {item.nodeid}".encode()).digest()[0] % 10
            drawn[lot == 0 and item.get_closest_marker("nightly") is not None].append(item)
        config.hook.pytest_deselected(items=drawn[False])
        items[:] = drawn[True]


def _of_paper(slug: str) -> Callable[[pytest.Item], bool]:
    """Whether a parameter of a test is the slug, a name that the paper registers, or a class of it."""
    from tether.core.method_files import FILE, FOLDER, read_method

    package = f"tether.methods.{slug.replace('-', '_')}"
    method = read_method(FOLDER / slug.replace("-", "_") / FILE, package=package)
    names = {slug, *(name for _, name, _ in method.registered())}

    def of_paper(item: pytest.Item) -> bool:
        given = item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
        return any(
            one in names if isinstance(one, str) else str(getattr(one, "__module__", "")).startswith(f"{package}.")
            for one in given
        )

    return of_paper


def pytest_collection_finish() -> None:
    """Collect garbage seldom, and never look through what was imported: that took 3.5 of 90 s of tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The command that runs again what failed, and with ``--earlier-failures`` that of the run before."""
    cache = getattr(config, "cache", None)  # none under -p no:cacheprovider
    earlier = cache.get(_AGAIN, []) if cache and config.getoption("--earlier-failures") else []
    reports = [report for kind in ("failed", "error") for report in terminalreporter.stats.get(kind, [])]
    failed = sorted({report.nodeid for report in reports})
    given = [word for word in config.invocation_params.args if word.startswith(("--jaxtyping", "--last-bits="))]
    chosen = failed if len(failed) <= _LISTED else ["--last-failed"]
    kernels = [f"{name}={os.environ[name]}" for name in _KERNELS if name in os.environ]
    own = [shlex.join([*kernels, _python(), "-m", "pytest", *given, *chosen])] if failed else []
    if cache:
        cache.set(_AGAIN, own)
    if earlier or own:
        terminalreporter.section("to run again what failed")
        for command in dict.fromkeys(earlier + own):
            terminalreporter.write_line(command)


def _python() -> str:
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Run a test and its fixtures under what ``--last-bits`` asks for."""
    seed = item.config.getoption("--last-bits")
    if seed is None:
        return (yield)
    from other_kernels import OtherKernels

    with OtherKernels(seed):
        return (yield)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return Path(__file__).parents[1]


@pytest.fixture
def holder() -> Callable[[Path, str], contextlib.AbstractContextManager[int]]:
    """``with holder(folder, purpose) as pid``: another process, killed at the end, holds the folder's lock."""

    @contextlib.contextmanager
    def hold(folder: Path, purpose: str) -> Iterator[int]:
        command = [sys.executable, "-c", _HOLDS, str(folder), purpose]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            try:
                yield process.pid
            finally:
                process.kill()

    return hold
