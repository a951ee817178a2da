"""One process of a training run that is killed while it saves, may gather nothing, or has another disk."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from launch_training import launch
from torch.distributed.tensor import DTensor

from tether.training import load_config, train


def launch_without_gathering(folder: Path, settings: list[str], stop_after: int) -> None:
    """No tensor may be put together for a checkpoint."""
    from tether.training import sharded
    from tether.training.trainer import Trainer

    def apart(function: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*arguments: Any, **keywords: Any) -> Any:
            with mock.patch.object(DTensor, "full_tensor", side_effect=AssertionError("gathered")):
                return function(*arguments, **keywords)

        return inner

    with (
        mock.patch.object(Trainer, "checkpoint", apart(Trainer.checkpoint)),
        mock.patch.object(sharded, "save_sharded", apart(sharded.save_sharded)),
    ):
        launch(folder, settings, stop_after)


def launch_killed(folder: Path, settings: list[str], step: int) -> None:
    """The last process is killed when it has written half of its part of a step's checkpoint."""
    from tether.training import sharded

    written = sharded.write_shard

    def write(path: Path, *arguments: object, **keywords: object) -> None:
        written(path, *arguments, **keywords)  # pyrefly: ignore
        if os.environ["RANK"] == "1" and f"{step:08d}" in path.parent.name:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    with mock.patch.object(sharded, "write_shard", write):
        train(load_config(overrides=settings), folder=folder)


def launch_on_other_disks(folder: Path, settings: list[str]) -> None:
    """Each process has a folder of its own under the same name."""
    with mock.patch("tether.training.shared_folder._PATIENCE", 0.1):
        train(load_config(overrides=settings), folder=folder / os.environ["RANK"], resume=True)
