"""Every codec that a model may hold, and codecs as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.registry import Registry
from tether.core.state_file import read_state, wide_array, write_state
from tether.models.convert.weights import filled
from tether.models.latent.codec import ScaledCodec
from tether.models.latent.diffusers import DiffusersCodec

CODECS: Registry[ScaledCodec] = Registry(
    "codecs",
    {
        "conv": "tether.models.latent.codec:ConvCodec",
        "diffusers": "tether.models.latent.diffusers:DiffusersCodec",
    },
)
"""By the name in a model's description; each is a ``models.latent.codec.Codec``."""

FORMAT = "tether-codec-1"


def save_codec(codec: ScaledCodec, path: str | Path) -> Path:
    """Write weights, scale and statistics to one safetensors file, atomically; ``load_codec`` gives it back.

    Args:
        codec: one of ``CODECS``.
        path: the file.
    """
    arrays = {name: wide_array(value) for name, value in codec.state_dict().items()}
    write_state(path, format=FORMAT, settings=codec.settings, arrays=arrays)
    return Path(path)


def load_codec(path: str | Path) -> ScaledCodec:
    """A codec at rest, out of a file of ``save_codec`` or a folder of diffusers' ``AutoencoderKL``.

    Raises:
        InputError: no such file, or one that is damaged or of another kind.
        MissingExtraError: it needs diffusers, and that is not installed.

    Example:
        >>> import tempfile
        >>> from tether.models.latent.codec import ConvCodec
        >>> from tether.models.latent.codecs import load_codec, save_codec
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_codec(save_codec(ConvCodec(scale=0.5), f"{folder}/codec.safetensors")).latent.scale
        0.5
    """
    if Path(path).is_dir():
        return DiffusersCodec.from_folder(path).eval().requires_grad_(False)
    if not Path(path).is_file():
        raise InputError(
            f"{path}: no such file; expected a codec of train.codec_training.train_codec and save_codec, or a folder "
            "with diffusers' AutoencoderKL"
        )
    settings, arrays = read_state(path, what="codec", format=FORMAT)
    made = filled(lambda: build_codec(settings, where=str(path)), arrays, where=path)
    return made.eval().requires_grad_(False)


def build_codec(settings: Mapping[str, Any], *, where: str) -> ScaledCodec:
    """The codec of these settings; its weights mean nothing yet."""
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    return build(plain, CODECS, where=where)
