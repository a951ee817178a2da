"""The same few bits by torchao and by ``octav``, and norm tweaking on top of each: what is lost and what comes back.

    python -O benchmarks/few_bits_torchao.py [--model starter --model runs/mine --train FILE --test FILE] [--no-lm]

Needs ``pip install torchao``, which Tether does not. A character model of eight layers (trained once, a minute, then
kept) is judged by nats of held-out text. Each ``--model`` is judged by zero-shot classification of TEST, a Parquet
file with ``image`` and ``label`` such as CIFAR-10; norms are tweaked on the first rows of TRAIN and the class names.
Of ``starter`` the text tower is rounded, of other models both towers.

Schemes: torchao's ``IntxWeightOnlyConfig`` (symmetric, asymmetric; a row or 32 weights of it), its prototype GPTQ
(4 bits, 32 weights), and ours with as many bits, a clip value a row or 32 weights. All are written back as floats.
GPTQ asserts an accelerator, so on a processor it takes ``python -O``, and its two kernels of mslk are replaced by the
same arithmetic here; without ``-O`` it is left out. One rate of norm tweaking for all schemes of a model.
What came out stands in ``docs/guides/compressing.md``. About 4 CPU minutes for the character model.
"""

from __future__ import annotations

import argparse
import copy
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn
from torchao.quantization import IntxWeightOnlyConfig, PerAxis, PerGroup, quantize_
from torchao.quantization.quant_primitives import MappingType

import tether
from tether.compression.quantise import Octav
from tether.compression.quantise.few_bits import RoundedRows
from tether.core.errors import UnsupportedModelError
from tether.core.types import Batch
from tether.data.images import resize_and_crop
from tether.methods.norm_tweaking import NormTweak, own_texts
from tether.models.composed.encoder import ComposedEncoder
from tether.models.embed import encode_images, encode_texts
from tether.models.features.find import anatomy_of
from tether.models.features.parametrization import WeightPlace, replace
from tether_lab.lab.lab import Lab
from tether_lab.worlds import deep_char_lm

GROUP, BITS = 32, (2, 3, 4)
LM_RATE, RATE = 5e-3, 1e-3
TEXTS, LENGTH, CALIBRATED = 64, 48, 128
Rows = Mapping[str, Tensor]
"""Rounded rows by place."""


class Given(nn.Module):
    """Rows that another library rounded, whatever comes in."""

    def __init__(self, rows: Tensor) -> None:
        """Args: rows: that are given."""
        super().__init__()
        self.register_buffer("rows", rows)

    def forward(self, rows: Tensor) -> Tensor:
        """What another library made of them."""
        return self.rows.view_as(rows)


def settings_of(model: nn.Module) -> dict[str, Any]:
    """Which of a model's maps are rounded."""
    towers = ("text",) if isinstance(model, ComposedEncoder) else ("image", "text")
    return {"towers": towers, "include": ("q", "k", "v", "o", "mlp", "other")}


def intx(rows: Tensor, *, bits: int, mapping: MappingType, group: int | None) -> Tensor:
    """Rows as torchao's weight-only scheme leaves them."""
    layer = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
    layer.weight = nn.Parameter(rows.detach().clone(), requires_grad=False)
    holder = nn.Sequential(layer)
    given = PerAxis(0) if group is None else PerGroup(group)
    quantize_(holder, IntxWeightOnlyConfig(getattr(torch, f"int{bits}"), granularity=given, mapping_type=mapping))
    return cast(Any, holder[0]).weight.dequantize().float()


def gptq(rows: Tensor, hessian: Tensor) -> Tensor:
    """Rows as torchao's prototype GPTQ leaves them, with 4 bits and ``GROUP`` weights a scale."""
    from torchao.prototype.gptq import api
    from torchao.quantization import Int4WeightOnlyConfig

    def ranges(x: Tensor, group: int) -> tuple[None, Tensor, Tensor]:
        some = x.float().unflatten(1, (-1, group))
        least, step = some.amin(2), (some.amax(2) - some.amin(2)).clamp(min=1e-6) / 15
        return None, step.t().contiguous(), (least + 8 * step).t().contiguous()

    api.int4_row_quantize_zp, api.pack_int4 = ranges, lambda q: q
    if not torch.cuda.is_available():
        torch.cuda.synchronize = lambda device=None: None
    config = api.GPTQConfig("convert", Int4WeightOnlyConfig(group_size=GROUP))
    found = api.gptq_quantize(hessian.clone(), rows.detach().clone(), config)
    return api._int4_row_dequantize_zp(found.qdata, found.scale, found.zero_point, GROUP)


def hessians(model: nn.Module, places: Sequence[WeightPlace], run: Callable[[nn.Module], object]) -> dict[str, Tensor]:
    """What GPTQ looks at, of the float model, by place."""
    from torchao.prototype.gptq.observer import GPTQObserverTensor

    modules = {id(place.held("weight").module): place.held("weight").module for place in places}
    watched = {key: GPTQObserverTensor.from_hp(_plain(module)) for key, module in modules.items()}
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, key=key: watched[key].update_2d(inputs[0]))
        for key, module in modules.items()
    ]
    with torch.no_grad():
        run(model)
    for handle in handles:
        handle.remove()
    found = {place.name: cast(Tensor, watched[id(place.held("weight").module)].hessian) for place in places}
    if unseen := [name for name, one in found.items() if not bool(one.any())]:
        raise RuntimeError(f"{unseen[0]}: was not called, so GPTQ has nothing to go by")
    return found


def _plain(module: nn.Module) -> Tensor:
    return cast(Tensor, module.weight).detach().contiguous()


def schemes(
    model: nn.Module, bits: int, run: Callable[[nn.Module], object]
) -> dict[str, Callable[[nn.Module], nn.Module]]:
    """By name, what rounds a copy of the model."""
    settings = settings_of(model)
    places = Octav(**settings).places(model)
    tables: dict[str, Rows] = {}
    for mapping in (MappingType.SYMMETRIC, MappingType.ASYMMETRIC):
        for group in (None, GROUP):
            name = f"torchao intx, {mapping.name.lower()}, {'a row' if group is None else group}"
            tables[name] = {p.name: intx(p.weight, bits=bits, mapping=mapping, group=group) for p in places}
    if bits == 4 and not __debug__:
        seen = hessians(model, places, run)
        tables[f"torchao GPTQ, {GROUP}"] = {p.name: gptq(p.weight, seen[p.name]) for p in places}

    def written(table: Rows) -> Callable[[nn.Module], nn.Module]:
        def apply(copied: nn.Module) -> nn.Module:
            replace(Octav(**settings).places(copied), lambda place: RoundedRows(cast(Any, Given(table[place.name]))))
            return copied

        return apply

    found = {name: written(table) for name, table in tables.items()}
    for scale in ("octav", "max"):
        for group in (None, GROUP):
            share: dict[str, Any] = {"share": "channel"} if group is None else {"share": "group", "group": GROUP}
            edit = Octav(bits=bits, scale=cast(Any, scale), **share, **settings)
            found[f"ours {scale}, {'a row' if group is None else group}"] = edit.apply_
    return found


def table(
    title: str,
    model: nn.Module,
    *,
    measure: Callable[[nn.Module], float],
    tweak: Callable[[nn.Module], object],
    run: Callable[[nn.Module], object],
    bits: Sequence[int],
    unit: str,
) -> None:
    """Print what every scheme loses, and what norm tweaking gives back of it."""
    plain = measure(model)
    print(f"\n{title}: {plain:.4g} {unit} in floats\n| bits | scheme | rounded | norms tweaked | given back |")
    print("| --- | --- | --- | --- | --- |")
    for width in bits:
        for name, rounding in schemes(model, width, run).items():
            copied = rounding(copy.deepcopy(model)).eval()
            rounded = measure(copied)
            tweak(copied)
            after = measure(copied)
            lost = rounded - plain
            share = f"{100 * (rounded - after) / lost:.0f} %" if abs(lost) > 1e-3 * abs(plain) else "-"
            print(f"| {width} | {name} | {rounded:.4g} | {after:.4g} | {share} |", flush=True)


def language(*, smoke: bool, bits: Sequence[int]) -> None:
    """The character model."""
    lab = Lab(10, smoke=smoke)
    model = deep_char_lm.trained(lab)
    first = deep_char_lm.letters(lab, rows=lab.steps(TEXTS, 3))
    texts = list(own_texts(model, first, length=LENGTH, generator=lab.generator("own text")))
    table(
        "Character model",
        model,
        measure=lambda some: deep_char_lm.nats(lab, cast(Any, some)),
        tweak=lambda some: NormTweak(lr=LM_RATE).tweak_(some, texts),
        run=lambda some: some(torch.stack(texts)),
        bits=bits,
        unit="nats",
    )


def images(path: Path, *, rows: int, model: Any) -> tuple[Tensor, list[str]]:
    """Pixels as a model takes them, and labels, of every n-th row."""
    found = pq.read_table(path, columns=["image", "label"])
    every = max(1, len(found) // rows)
    some = found.take(list(range(0, len(found), every))[:rows]).to_pylist()
    pixels = []
    for row in some:
        image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
        raw = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
        pixels.append(resize_and_crop(raw.permute(2, 0, 1), model.image_spec))
    return torch.stack(pixels), [str(row["label"]) for row in some]


def encoder(name: str, *, train: Path, test: Path, rows: int, bits: Sequence[int]) -> None:
    """One model of ``tether.load``."""
    model: Any = tether.load(name)
    pixels, labels = images(test, rows=rows, model=model)
    names = sorted(set(labels))
    template = "{}" if isinstance(model, ComposedEncoder) else "a photo of a {}"
    texts, truth = [template.format(one) for one in names], torch.tensor([names.index(one) for one in labels])
    rest = encode_images(model, pixels.split(64)) if isinstance(model, ComposedEncoder) else None
    seen, said = images(train, rows=min(CALIBRATED, rows), model=model)
    batch = Batch(seen, model.tokenizer([template.format(one) for one in said]))
    unit = nn.functional.normalize

    def measure(some: Any) -> float:
        shown = encode_images(some, pixels.split(64)) if rest is None else rest
        scores = unit(shown, dim=1) @ unit(encode_texts(some, texts), dim=1).T
        return 100 * float((scores.argmax(1) == truth).float().mean())

    towers = settings_of(model)["towers"]

    def run(some: Any) -> None:
        for side in towers:
            given = batch.text if side == "text" else batch.image
            try:  # all of the last block, of which encoding needs one token's queries
                tower = anatomy_of(some, side)
                tower.run(tower.embed(given))
            except UnsupportedModelError:
                some.encode_text(given)

    table(
        f"{name} on {len(labels)} images of {test.name}",
        model,
        measure=measure,
        tweak=lambda some: NormTweak(lr=RATE, towers=towers).apply_(some, [batch]),
        run=run,
        bits=bits,
        unit="% right",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], help="of tether.load; several times")
    parser.add_argument("--train", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--bits", type=int, action="append", choices=BITS)
    parser.add_argument("--no-lm", action="store_true", help="without the character model")
    parser.add_argument("--quick", action="store_true", help="does it run? its figures mean nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    bits = given.bits or (BITS[-1:] if given.quick else BITS)
    if __debug__:
        print("without python -O torchao's GPTQ is left out")
    if given.model and (given.train is None or given.test is None):
        parser.error("--model needs --train and --test")
    if not given.no_lm:
        language(smoke=given.quick, bits=bits)
    for name in given.model:
        rows = 40 if given.quick else given.rows
        encoder(name, train=given.train, test=given.test, rows=rows, bits=bits)


if __name__ == "__main__":
    main()
