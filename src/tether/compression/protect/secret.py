"""The key of an obfuscated model: where its weights were changed, and what they were."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tether.core.atomic_io import parse_json
from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.printable import quoted
from tether.models.convert.saved_files import write_weights
from tether.models.convert.weights import read_metadata, read_weights

FORMAT = "tether-secret-1"


@dataclass(frozen=True)
class Secret:
    """Places and original values of the weights that an ``Obfuscator`` changed, bound to the changed model.

    Attributes:
        indices: (n,) int64 for each parameter by name: places in the flattened tensor.
        originals: (n,) values in the parameter's own dtype.
        original_digest: ``core.model_digest`` of the model as it was.
        obfuscated_digest: of the model that it brings back.
        settings: how it was made, in plain values.

    Example:
        >>> import tempfile, torch
        >>> from tether.compression.protect import Obfuscator, Secret
        >>> model = torch.nn.Linear(8, 3)
        >>> data = [(torch.randn(16, 8), torch.randint(0, 3, (16,)))]
        >>> broken, secret = Obfuscator(model, eps=0.1, rounds=1).fit(data)
        >>> path = secret.save(tempfile.mkdtemp() + "/key.safetensors")
        >>> bool((Secret.load(path).restore(broken).weight == model.weight).all())
        True
    """

    indices: Mapping[str, Tensor]
    originals: Mapping[str, Tensor]
    original_digest: str
    obfuscated_digest: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many weights were changed."""
        return sum(len(one) for one in self.indices.values())

    @torch.no_grad()
    def restore(self, model: nn.Module) -> nn.Module:
        """Write the original values back, in place, and give the model, which is then the original to the bit.

        Raises:
            InputError: the model is not the one that this secret belongs to, by its digest, or the secret is damaged;
                the model is then as it was.
        """
        found = model_digest(model)
        if found == self.original_digest:
            raise InputError("secret: the model is the original already; nothing to restore")
        if found != self.obfuscated_digest:
            raise InputError(
                f"secret: belongs to another model: expected digest {self.obfuscated_digest[:12]}, got {found[:12]}"
            )
        parameters = dict(model.named_parameters())
        for name, places in self.indices.items():
            value, had = parameters.get(name), self.originals[name]
            if value is None or value.dtype != had.dtype or bool((places < 0).any() | (places >= value.numel()).any()):
                raise InputError(f"secret: {name}: damaged: does not fit the model's weight")
        changed = {name: _read(parameters[name], places) for name, places in self.indices.items()}
        for name, places in self.indices.items():
            _write_(parameters[name], places, self.originals[name])
        if model_digest(model) != self.original_digest:
            for name, places in self.indices.items():
                _write_(parameters[name], places, changed[name])
            raise InputError("secret: damaged: its values do not give the original back; the model is as it was")
        return model

    def save(self, path: str | Path) -> Path:
        """Write it as one safetensors file, atomically; only its owner may read it, at no time anybody else.

        Raises:
            WriteError: it cannot be written.
        """
        state = {f"index/{name}": one for name, one in self.indices.items()}
        state |= {f"original/{name}": one for name, one in self.originals.items()}
        said = {"format": FORMAT, "original": self.original_digest, "obfuscated": self.obfuscated_digest}
        write_weights(Path(path), state, metadata=said | {"settings": json.dumps(dict(self.settings))}, private=True)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Secret:
        """Read what ``save`` wrote.

        Raises:
            InputError: no such file, or another one.
        """
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file; expected the key that tether compress --protect wrote")
        state = read_weights(Path(path))
        said = read_metadata(Path(path))
        if said.get("format") != FORMAT:
            raise InputError(f"{path}: expected a secret of an obfuscated model ({FORMAT}), got {said.get('format')!r}")
        indices, originals = (
            {name.removeprefix(kind): one for name, one in state.items() if name.startswith(kind)}
            for kind in ("index/", "original/")
        )
        shapes = [{name: one.shape for name, one in many.items()} for many in (indices, originals)]
        whole = all(one.ndim == 1 and one.dtype == torch.int64 for one in indices.values())
        if shapes[0] != shapes[1] or len(indices) + len(originals) != len(state) or not indices or not whole:
            raise InputError(f"{path}: damaged: places and values do not belong together")
        settings = parse_json(said.get("settings", "{}"), where=f"{path}: settings")
        if not isinstance(settings, dict):
            raise InputError(f"{path}: settings: expected a mapping, got {quoted(settings)}")
        return cls(indices, originals, said.get("original", ""), said.get("obfuscated", ""), settings)


def changes(before: nn.Module, after: nn.Module, *, settings: Mapping[str, Any]) -> Secret:
    """The secret that brings ``before`` back from ``after``, a copy with other values at some places.

    Raises:
        InputError: nothing differs.
    """
    indices, originals = dict[str, Tensor](), dict[str, Tensor]()
    changed = dict(after.named_parameters())
    for name, value in before.named_parameters():
        # Bits, not values: 0.0 and -0.0 are equal.
        one, other = (_bits(tensor) for tensor in (value, changed[name]))
        places = (one != other).any(1).nonzero().flatten()
        if len(places):
            indices[name] = places.cpu()
            originals[name] = _read(value, places)
    if not indices:
        raise InputError("secret: no weight was changed; nothing to keep")
    return Secret(indices, originals, model_digest(before), model_digest(after), settings)


def _bits(value: Tensor) -> Tensor:
    return value.detach().contiguous().reshape(-1, 1).view(torch.uint8)


def _read(value: Tensor, places: Tensor) -> Tensor:
    return value.detach().reshape(-1)[places.to(value.device)].clone().cpu()


def _write_(value: Tensor, places: Tensor, values: Tensor) -> None:
    flat = value.detach().reshape(-1).clone()  # a copy, as a weight need not be contiguous
    flat[places.to(value.device)] = values.to(value.device)
    value.copy_(flat.view(value.shape))
