"""Processes of their own, forked from one that has imported torch and tether: 0.1 s instead of 2."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOAD = """
pytest ftfy pandas pydantic rich.progress accelerate torch._dynamo torch.distributed.fsdp tether.cli.progress
tether.cli.train tether.compression.quantise tether.data.augment tether.data.sets.emoji tether.data.sources.images
tether.evaluate.measures tether.models.load tether.tasks.retrieve.embed tether.training.run tether.training.steps
tether.training.trainer
"""
_CONTEXT.set_forkserver_preload(_PRELOAD.split())


class Child:
    """Runs ``function(*arguments)`` and can be asked, as a ``subprocess.Popen`` can, how it goes."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, cwd: Path | None = None, **env: str) -> None:
        self._said = tempfile.TemporaryDirectory()
        folder = Path(self._said.name)
        self._process = _CONTEXT.Process(target=_live, args=(function, arguments, folder, cwd or Path.cwd(), env))
        self._process.start()
        self.pid: int = self._process.pid or 0
        while not (folder / "err").exists() and self.poll() is None:  # until then it has no group of its own
            time.sleep(0.001)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def signal(self, number: int) -> None:
        """To its whole group, as a terminal's Ctrl-C goes."""
        os.killpg(self.pid, number)

    def communicate(self, *, timeout: float = 120) -> tuple[str, str]:
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise TimeoutError(f"still running after {timeout} s: {self._read('err')}")
        return self._read("out"), self._read("err")

    def _read(self, name: str) -> str:
        return (Path(self._said.name) / name).read_text(encoding="utf-8")


def _live(
    function: Callable[..., Any], arguments: tuple[Any, ...], folder: Path, cwd: Path, env: Mapping[str, str]
) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(env)
    os.chdir(cwd)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8")  # pyrefly: ignore
    function(*arguments)


def command_line(*arguments: str) -> None:
    from tether.cli import main

    main(list(arguments))


def tether(*arguments: object, cwd: Path | None = None) -> Child:
    """``tether arguments`` in a process of its own."""
    return Child(command_line, *map(str, arguments), cwd=cwd)


def run_tether(*arguments: object, cwd: Path | None = None) -> tuple[str, str]:
    """Its standard output and error after a good end."""
    child = tether(*arguments, cwd=cwd)
    out, err = child.communicate()
    assert child.returncode == 0, out + err
    assert "Traceback" not in err
    return out, err


def wait_for(happened: Callable[[], object], child: Child, *, seconds: float = 120) -> None:
    """Return as soon as something has happened; the child must still be at work then."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def ranks(function: Callable[..., Any], *arguments: Any, world: int = 2) -> list[Child]:
    """As many processes, which find each other as a launcher's do; one alone is told nothing."""
    if world == 1:
        return [Child(function, *arguments)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [Child(function, *arguments, **common, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(world)]


def run_ranks(function: Callable[..., Any], *arguments: Any, world: int = 2) -> None:
    """Wait for them all; they must end well."""
    started = ranks(function, *arguments, world=world)
    try:
        said = [child.communicate()[1] for child in started]
    finally:
        for child in started:
            child.kill()
    assert [child.returncode for child in started] == [0] * world, "\n".join(one[-3000:] for one in said)


def in_group(function: Callable[..., Any], *arguments: Any) -> None:
    """What ``run_ranks`` is to run for a function that wants a gloo group and no more."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    function(*arguments)
    dist.barrier()
    dist.destroy_process_group()
