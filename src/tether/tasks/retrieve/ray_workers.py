"""Embedding by workers of a Ray cluster."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder, Source
from tether.core.ray_cluster import connected
from tether.data.features.making import Making
from tether.data.features.remote_parts import PartWork, RemoteParts
from tether.tasks.retrieve.vectors import Vectors, VectorsThere


@dataclass(frozen=True, slots=True)
class RayWorkers:
    """Workers of a Ray cluster that embed.

    Attributes:
        count: how many; None takes as many as the cluster has room for now.
        address: of the cluster, see ``core.ray_cluster.connect``.
        device: ``cpu`` keeps them from GPUs; with any other word each takes one where the cluster has any.

    Example:
        >>> from tether.tasks.retrieve.ray_workers import RayWorkers
        >>> RayWorkers(2).address is None
        True
    """

    count: int | None = None
    address: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check the number.

        Raises:
            InputError: less than one.
        """
        if self.count is not None and self.count < 1:
            raise InputError(f"workers: expected at least 1 worker of Ray, got {self.count}")

    @contextlib.contextmanager
    def making(
        self, source: Source, *, model: DualEncoder, settings: dict[str, Any], part_rows: int, batch_size: int
    ) -> Iterator[Making]:
        """What makes the parts of a source while the block runs; a cluster that was started for it ends with it.

        A worker computes with as many threads as torch does here, since their number changes the last bits of a
        vector, and takes as many processors of the cluster; with a GPU, one.

        Args:
            source: where rows come from.
            model: embeds; it is sent to every worker.
            settings: of ``Vectors``.
            part_rows: rows of one part.
            batch_size: images in one forward.

        Raises:
            MissingExtraError: Ray is not installed.
            InputError: no such cluster, or none with room for a worker; a model that cannot be sent.
        """
        threads = torch.get_num_threads()
        with connected(address=self.address, cpus=None if self.count is None else self.count * threads) as ray:
            has = ray.cluster_resources()
            gpus = int(self.device != "cpu" and has.get("GPU", 0) >= 1)
            cpus = 1 if gpus else threads
            room = has.get("GPU", 0) if gpus else has.get("CPU", 0) // cpus
            work = PartWork(
                VectorsThere(_on_cpu(model), settings, "cuda" if gpus else "cpu"),
                image_spec=model.image_spec,
                batch_size=batch_size,
                threads=threads,
            )
            parts = RemoteParts(
                ray,
                work,
                source=source,
                part_rows=part_rows,
                maker=lambda: Vectors(model, **settings),
                workers=self.count or max(1, int(room)),
                cpus=cpus,
                gpus=gpus,
            )
            try:
                yield parts
            finally:
                parts.close()


def _on_cpu(model: DualEncoder) -> DualEncoder:
    """The model, or a copy where it lies on a GPU, which the worker may not have."""
    if isinstance(model, torch.nn.Module) and model.logit_scale.device.type != "cpu":
        return cast(DualEncoder, copy.deepcopy(model).to("cpu"))
    return model
