"""Rounded weights in as few bits as they need, beside all others: one file that gives a model back to the bit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn

from tether.compression.quantise.few_bits import RoundedRows
from tether.core.atomic_io import parse_json
from tether.core.errors import InputError
from tether.models.convert.saved_files import write_weights
from tether.models.convert.weights import read_metadata, read_weights
from tether.models.features.parametrization import WeightPlace, exchanged

FORMAT, PACKED_FILE = "tether-packed-1", "few-bits.safetensors"


def pack_codes(codes: Int[Tensor, "*shape"], bits: int) -> UInt8[Tensor, " bytes"]:
    """Whole numbers from 0 to ``2^bits - 1`` as bits, the lowest of each first, in bytes."""
    places = torch.arange(bits)
    flat = ((codes.reshape(-1, 1) >> places) & 1).flatten()
    flat = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).view(-1, 8)
    return (flat << torch.arange(8)).sum(1).to(torch.uint8)


def unpack_codes(packed: UInt8[Tensor, " bytes"], bits: int, count: int) -> Int[Tensor, " count"]:
    """What ``pack_codes`` made bytes of."""
    flat = ((packed.long()[:, None] >> torch.arange(8)) & 1).flatten()[: count * bits]
    return (flat.view(count, bits) << torch.arange(bits)).sum(1)


@torch.no_grad()
def save_packed(model: nn.Module, places: Sequence[WeightPlace], path: Path) -> Path:
    """Write a model whose weights ``Octav`` rounds, before it is merged.

    Args:
        model: with the grids in place.
        places: that are rounded.
        path: of the file.

    Raises:
        InputError: a place is not rounded.
    """
    made, state, about = exchanged(model), dict[str, Tensor](), list[dict[str, object]]()
    whole = {name.replace(".parametrizations", "").removesuffix(".original"): value for name, value in _plain(model)}
    left = {name: torch.ones(len(value), dtype=torch.bool) for name, value in whole.items() if value.ndim}
    for place in places:
        rows = made.get(f"{place.name}.weight")
        if not isinstance(rows, RoundedRows):
            raise InputError(f"{place.name}: is not rounded; expected a place of the edit octav")
        held, value = place.held("weight"), place.weight
        step, low = _step(rows)
        split = value if rows.group is None else value.unflatten(-1, (-1, rows.group))
        codes = (split.to(step) / step).round().long() - low
        if not torch.equal(((codes + low) * step).to(value.dtype).view(value.shape), value):
            raise InputError(f"{place.name}: is not on its grid; expected rounded weights")
        state |= {f"{place.name}.codes": pack_codes(codes.cpu(), rows.quant.bits), f"{place.name}.step": step.clone()}
        if low.numel() > 1:
            state[f"{place.name}.low"] = low.short()
        about.append(
            {
                "place": place.name,
                "tensor": place.tensor,
                "start": held.start,
                "shape": list(split.shape),
                "bits": rows.quant.bits,
                "low": int(low) if low.numel() == 1 else None,
            }
        )
        left[place.tensor][held.start : held.stop] = False
    for name, value in whole.items():
        if not value.ndim or bool(left[name].all()):
            state[f"plain/{name}"] = value
        elif bool(left[name].any()):
            state[f"rest/{name}"] = value[left[name].to(value.device)]
    write_weights(path, state, metadata={"format": FORMAT, "places": json.dumps(about)})
    return path


@torch.no_grad()
def load_packed_(model: nn.Module, path: Path) -> nn.Module:
    """Fill a model of the same architecture from such a file; it is then the merged model, bit for bit.

    Raises:
        InputError: not such a file, damaged, with numbers that are not finite, or other tensors than the model's; the
            model is then as it was.
    """
    given, said = read_weights(path), read_metadata(path)
    if said.get("format") != FORMAT:
        raise InputError(f"{path}: expected what save_packed wrote ({FORMAT}), got {said.get('format')!r}")
    places = parse_json(said.get("places", ""), where=f"{path}: places")
    if not isinstance(places, list) or not all(map(_is_place, places)):
        raise InputError(f"{path}: damaged: expected places with tensor, start, shape, bits of 1 to 16 and low")
    if bad := [name for name, value in given.items() if value.is_floating_point() and not bool(value.isfinite().all())]:
        raise InputError(f"{path}: {bad[0]}: holds numbers that are NaN or infinite; expected finite ones")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        _fill(state, given, places, path=path)
    except (KeyError, RuntimeError, TypeError) as error:
        raise InputError(f"{path}: damaged: {type(error).__name__}: {error!s:.200}") from None
    model.load_state_dict(state)
    return model


_KINDS = {"place": str, "tensor": str, "start": int, "shape": list, "bits": int}


def _is_place(one: object) -> bool:
    if not isinstance(one, dict) or any(type(one.get(key)) is not kind for key, kind in _KINDS.items()):
        return False
    sizes: list[object] = [one["start"], *one["shape"]]
    whole = all(type(size) is int and size >= 0 for size in sizes)
    return whole and len(sizes) > 1 and 1 <= one["bits"] <= 16 and type(one.get("low")) in (int, type(None))


def _fill(
    state: dict[str, Tensor], given: Mapping[str, Tensor], places: Sequence[Mapping[str, Any]], *, path: Path
) -> None:
    filled = {name: torch.zeros(len(value), dtype=torch.bool) for name, value in state.items() if value.ndim}
    for name, value in given.items():
        if name.startswith("plain/") and name[6:] in state and state[name[6:]].shape == value.shape:
            state[name[6:]].copy_(value)
            if value.ndim:
                filled[name[6:]][:] = True
        elif name.startswith("plain/"):
            raise InputError(f"{path}: {name[6:]}: expected a tensor of the model, got {tuple(value.shape)}")
    for one in places:
        target = state.get(one["tensor"])
        size = torch.Size(one["shape"])
        if target is None or target[one["start"] : one["start"] + size[0]].numel() != size.numel():
            raise InputError(f"{path}: {one['place']}: does not fit {one['tensor']} of the model")
        low = given[f"{one['place']}.low"].long() if one["low"] is None else one["low"]
        codes = unpack_codes(given[f"{one['place']}.codes"], one["bits"], size.numel()).view(size) + low
        rows = target[one["start"] : one["start"] + size[0]]
        rows.copy_((codes * given[f"{one['place']}.step"]).to(rows.dtype).view(rows.shape))
        filled[one["tensor"]][one["start"] : one["start"] + size[0]] = True
    for name, done in filled.items():
        if f"rest/{name}" in given:
            state[name][~done] = given[f"rest/{name}"]
        elif not bool(done.all()):
            raise InputError(f"{path}: {name}: the file has nothing for it")


def _plain(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The model's own tensors by name, without what is exchanged."""
    return [(name, value) for name, value in model.state_dict().items() if not _inside(name)]


def _inside(name: str) -> bool:
    return "parametrizations" in name.split(".") and not name.endswith(".original")


def _step(rows: RoundedRows) -> tuple[Tensor, Tensor]:
    """Of the grid: its step, and the number of its lowest level."""
    quant = rows.quant
    half = 2 ** (quant.bits - 1)
    if quant.zero is not None:
        return quant.s, (-quant.zero).long()
    return quant.s / half, torch.tensor(-half)
