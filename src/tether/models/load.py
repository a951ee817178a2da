"""Models by name: own runs, open_clip's and transformers'."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.files import read_json
from tether.models.config import read_config
from tether.models.dual import Clip
from tether.models.save import CONFIG_FILE, FORMAT, VERSION, WEIGHTS_FILE


def load(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    random_weights: bool = False,
) -> nn.Module:
    """Load."""
    model = load_own(Path(name))
    return model.to(device=device, dtype=dtype).eval()


def load_own(folder: Path) -> Clip:
    """A model that ``save`` wrote."""
    path = folder / CONFIG_FILE
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(f"{path}: expected 'format': {FORMAT!r}; this is not a tether model")
    if values.get("version") != VERSION:
        raise InputError(f"{path}: version {values.get('version')!r}; this tether reads version {VERSION}")
    model = Clip(read_config(values.get("model", {}), where=str(path)))
    fill(model, read_weights(folder / WEIGHTS_FILE), where=folder / WEIGHTS_FILE)
    return model


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: truncated or not a safetensors file ({error})") from None


def fill(model: nn.Module, state: dict[str, Tensor], *, where: Path | str) -> None:
    """Put weights into a model; every key and shape must fit."""
    own = model.state_dict()
    problems = [f"missing {key}" for key in own if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in own]
    problems += [
        f"{key}: got {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise InputError(f"{where}: weights of another architecture: {'; '.join(problems[:5])}{more}")
    model.load_state_dict(state)
