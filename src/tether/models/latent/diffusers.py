"""The auto-encoders of latent diffusion models, as diffusers has them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tether.core.atomic_io import read_json
from tether.core.errors import MissingExtraError, refusing
from tether.core.ranges import checked
from tether.models.config_check import check_values, mapping
from tether.models.latent.codec import Deviations, Means, ScaledCodec
from tether.models.latent.spec import LatentSpec

CONFIG_FILE, WEIGHTS_FILE = "config.json", "diffusion_pytorch_model.safetensors"


class DiffusersCodec(ScaledCodec):
    """An ``AutoencoderKL`` of diffusers, such as Stable Diffusion's.

    Its scale and shift are those of its configuration: 0.18215 for Stable Diffusion 1 and 2, 0.13025 for XL.
    """

    @checked
    def __init__(self, *, config: dict[str, Any], mean: Means = (), std: Deviations = ()) -> None:
        """Build it with any weights.

        Args:
            config: of the ``AutoencoderKL``, in plain values.
            mean: see ``LatentSpec``; ``measure_`` sets it.
            std: likewise.

        Raises:
            MissingExtraError: diffusers is not installed.
            InputError: no such auto-encoder.
        """
        super().__init__()
        try:
            from diffusers import AutoencoderKL
        except ImportError:
            raise MissingExtraError("diffusers", extra="generate") from None
        self.config = {key: value for key, value in mapping(config, where="config").items() if key[:1] != "_"}
        check_values(self.config, key="config")
        with refusing("config: no AutoencoderKL can be built from it"):
            self.vae = AutoencoderKL.from_config(copy.deepcopy(self.config)).eval()
            found = self.vae.config
            self.shift = float(found.shift_factor or 0.0)
        self.latent = LatentSpec(
            channels=found.latent_channels,
            downsampling=2 ** (len(found.block_out_channels) - 1),
            scale=found.scaling_factor,
            mean=mean,
            std=std,
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> DiffusersCodec:
        """Read what diffusers' ``save_pretrained`` wrote: ``config.json`` and safetensors; nothing is fetched.

        Raises:
            InputError: a file is not there or does not fit.
        """
        from tether.models.convert.weights import assemble

        folder = Path(folder)
        values: Mapping[str, Any] = mapping(read_json(folder / CONFIG_FILE), where=str(folder / CONFIG_FILE))
        return assemble(
            lambda: cls(config=dict(values)),
            folder / WEIGHTS_FILE,
            described=folder / CONFIG_FILE,
            convert=lambda state: {f"vae.{name}": value for name, value in state.items()},
        )

    @property
    def settings(self) -> dict[str, Any]:
        """See ``ScaledCodec``."""
        return {
            "name": "diffusers",
            "config": self.config,
            "mean": list(self.latent.mean),
            "std": list(self.latent.std),
        }

    def to_latents(self, x: Tensor) -> Tensor:
        """See ``ScaledCodec``."""
        return self.vae.encode(x).latent_dist.mode() - self.shift

    def to_images(self, latents: Tensor) -> Tensor:
        """See ``ScaledCodec``."""
        return self.vae.decode(latents + self.shift).sample
