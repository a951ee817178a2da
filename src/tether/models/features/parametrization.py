"""Weights of any block by name, exchanged for what a module makes of them: q, k, v, o, the feed-forward net, norms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.models.convert.saved_files import write_weights
from tether.models.convert.weights import read_metadata, read_weights
from tether.models.features.find import anatomy_of
from tether.models.features.weights import PARTS, Held, Weights

Of = Literal["weight", "bias"]
FORMAT = "tether-exchanged-1"


@dataclass(frozen=True, slots=True, eq=False)
class WeightPlace:
    """The weights of one linear map or norm of a block, whichever matrix they lie in.

    Attributes:
        name: such as ``image.blocks.3.q``: the same in every library, and after saving and loading.
        block: index of the block.
        part: of the block.
        tensor: name of the parameter in the model's ``state_dict``.
    """

    name: str
    block: int
    part: str
    tensor: str
    _held: Weights

    @property
    def weight(self) -> Tensor:
        """(out, in) rows of a linear map or (w,) of a norm, as the model computes with them.

        A view of the parameter, to read or to write under ``torch.no_grad``; where something is exchanged, what that
        gives.
        """
        return self._held.weight.read()

    @property
    def bias(self) -> Tensor | None:
        """(out,) or (w,), like ``weight``; None where there is none."""
        return None if self._held.bias is None else self._held.bias.read()

    def held(self, of: Of) -> Held:
        """Where the weight or the bias lies.

        Raises:
            InputError: neither, or there is no bias.
        """
        if of not in ("weight", "bias"):
            raise InputError(f"of: expected weight or bias, got {of!r}")
        found = self._held.weight if of == "weight" else self._held.bias
        if found is None:
            raise InputError(f"{self.name}: has no bias")
        return found


@dataclass(frozen=True, slots=True, eq=False)
class LinearPlace(WeightPlace):
    """A linear map.

    Attributes:
        heads: of attention, for q, k, v and o (fewer for k and v where queries share them); 0 elsewhere.
    """

    heads: int

    def by_head(self, heads: int | None = None) -> Float[Tensor, "h e w"]:
        """The weight of each head: its rows, and of ``o`` its columns, as rows too.

        Args:
            heads: their number, the block's own if None.

        Raises:
            InputError: the map has no heads, or their number does not divide it.
        """
        weight, heads = self.weight.T if self.part == "o" else self.weight, self.heads if heads is None else heads
        if not self.heads:
            raise InputError(f"{self.name}: has no heads; expected q, k, v or o")
        if heads < 1 or len(weight) % heads:
            raise InputError(f"heads: expected a divisor of {len(weight)}, the channels of {self.name}, got {heads}")
        return weight.unflatten(0, (heads, -1))


@dataclass(frozen=True, slots=True, eq=False)
class NormPlace(WeightPlace):
    """A norm: ``norm1`` stands before attention, ``norm2`` before the feed-forward net, others have their own names."""


def linears(
    model: DualEncoder,
    *,
    side: Literal["image", "text"] = "image",
    blocks: Iterable[int] | None = None,
    parts: Sequence[str] = PARTS,
) -> tuple[LinearPlace, ...]:
    """The linear maps of a tower's blocks, also where one matrix holds several of them; its pooling has none of these.

    Args:
        model: any model that ``tether.load`` gives whose blocks are known.
        side: ``image`` or ``text``.
        blocks: indices, which may be counted from the end; all if None.
        parts: any of ``q k v o out_gate gate up down``; those that a tower has not are left out.

    Returns:
        Block by block, in the order of ``parts``.

    Raises:
        InputError: no such block or part, or no block has any of them; a model that ``torch.compile`` wrapped.
        UnsupportedModelError: blocks that are not known, or layers of another edit, with a reason of
            ``models.refusals.EXCEPTIONS``.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.features.parametrization import AddedRows, linears, merge_, replace
        >>> model, image = create("tiny").eval(), torch.rand(2, 3, 32, 32)
        >>> places = linears(model, blocks=[-1], parts=("q", "v"))
        >>> places[0].name, places[0].tensor, places[0].weight.shape
        ('image.blocks.1.q', 'visual.blocks.1.qkv.weight', torch.Size([64, 64]))
        >>> before = model.encode_image(image).pooled
        >>> added = replace(places, AddedRows)  # changes nothing until it learns
        >>> torch.equal(model.encode_image(image).pooled, before)
        True
        >>> added[0].delta.data.normal_(std=0.1).shape
        torch.Size([64, 64])
        >>> changed = model.encode_image(image).pooled
        >>> torch.allclose(merge_(model).encode_image(image).pooled, changed)  # plain weights again
        True
    """
    for part in parts:
        if part not in PARTS:
            raise InputError(f"parts: no part {part!r}; {closest(str(part), PARTS)}")
    found = list[LinearPlace]()
    for index, block, names in _blocks(model, side, blocks):
        held = block.linears()
        heads = dict.fromkeys(PARTS, 0) | {"q": block.heads, "o": block.heads}
        for part in set("kv") & held.keys():  # fewer where queries share them
            heads[part] = block.heads * _rows(held[part]) // _rows(held["q"])
        for part in parts:
            if part in held:
                place = f"{side}.blocks.{index}.{part}"
                found.append(LinearPlace(place, index, part, _tensor(held[part], names), held[part], heads[part]))
    if not found:
        raise InputError(f"parts: no block chosen has any of {', '.join(parts) or 'none'}")
    return tuple(found)


def norms(
    model: DualEncoder, *, side: Literal["image", "text"] = "image", blocks: Iterable[int] | None = None
) -> tuple[NormPlace, ...]:
    """The norms with a weight inside a tower's blocks; arguments and errors as ``linears``.

    Example:
        >>> from tether.models import create
        >>> from tether.models.features.parametrization import norms
        >>> [place.name for place in norms(create("tiny"), side="text", blocks=[0])]
        ['text.blocks.0.norm1', 'text.blocks.0.norm2']
    """
    return tuple(
        NormPlace(f"{side}.blocks.{index}.{part}", index, part, _tensor(held, names), held)
        for index, block, names in _blocks(model, side, blocks)
        for part, held in block.norms().items()
    )


def _blocks(model: Any, side: Any, blocks: Iterable[int] | None) -> list[tuple[int, Any, Mapping[int, str]]]:
    """Chosen blocks with their indices, in order, and the names of the model's modules."""
    tower = anatomy_of(model, side)
    chosen = range(len(tower.blocks)) if blocks is None else sorted({tower.place(index) for index in blocks})
    names = {id(module): name for name, module in model.named_modules()}
    return [(index, tower.blocks[index], names) for index in chosen]


def _rows(held: Weights) -> int:
    return held.weight.stop - held.weight.start


def _tensor(held: Weights, names: Mapping[int, str]) -> str:
    return f"{names[id(held.weight.module)]}.{held.weight.name}"


class AddedRows(nn.Module):
    """What is added to the weights of a place; zeros at first."""

    def __init__(self, place: WeightPlace, *, of: Of = "weight") -> None:
        """Start with zeros, like the weights of ``place`` or its bias."""
        super().__init__()
        self.delta = nn.Parameter(torch.zeros_like(place.held(of).read()))

    def forward(self, rows: Tensor) -> Tensor:
        """The rows and what is added to them."""
        return rows + self.delta


class ExchangedRows(nn.Module):
    """Makes a parameter of the model's own one, with some of its rows given by other modules.

    It computes in the parameter's own precision, also under autocast.

    Attributes:
        made: the modules, each called with the plain rows of its place.
        places: by name in ``made``, the place's whole name and its first and last rows.
        learnt: whether the parameter took gradients before.
        order: of the parameters of the layer.
    """

    def __init__(self, *, learnt: bool, order: Sequence[str]) -> None:
        """Exchange nothing yet."""
        super().__init__()
        self.made, self.places = nn.ModuleDict(), dict[str, tuple[str, int, int]]()
        self.learnt, self.order = learnt, tuple(order)

    def forward(self, whole: Tensor) -> Tensor:
        """The whole parameter."""
        pieces, at = list[Tensor](), 0
        with torch.autocast(whole.device.type, enabled=False):
            for key, (_, start, stop) in sorted(self.places.items(), key=lambda item: item[1][1]):
                pieces += [whole[at:start], self.made[key](whole[start:stop])]
                at = stop
            return torch.cat([piece for piece in [*pieces, whole[at:]] if len(piece)])


def replace(
    places: Sequence[WeightPlace], make: Callable[..., nn.Module], *, of: Of = "weight"
) -> tuple[nn.Module, ...]:
    """Put a module between the weights of each place and the layer that computes with them.

    Each module is called with the plain rows and gives rows of the same shape and type. What it has learns as far as
    its own parameters do; the parameter of the model that the place lies in rests from now on, until ``merge_`` or
    ``take_back_``. Build the optimiser afterwards. A step-0 identity is the module's affair: ``AddedRows`` is one to
    the bit.

    Args:
        places: from ``linears`` or ``norms``, of one model.
        make: a place to its module, such as ``AddedRows``.
        of: whether the weight or the bias is exchanged; ``make`` is then called with ``of="bias"`` as well.

    Returns:
        The modules, place by place. Checkpoints of the model hold their weights.

    Raises:
        InputError: nothing is chosen, a place is exchanged already, or a module gives other than its place needs; the
            model is then as it was.
    """
    if not places:
        raise InputError("places: expected at least one")
    all_held, made = [place.held(of) for place in places], list[nn.Module]()
    taken: dict[tuple[int, str], list[range]] = {}
    for place, held in zip(places, all_held, strict=True):
        rows = range(held.start, held.stop)
        known = taken.setdefault((id(held.module), held.name), _taken(held))
        if any(rows.start < other.stop and other.start < rows.stop for other in known):
            raise InputError(f"{place.name}: its {of} is exchanged already; merge_ or take_back_ first")
        known.append(rows)
        module = make(place) if of == "weight" else make(place, of=of)
        made.append(_checked(module, held.read(), name=f"{place.name}: {of}"))
    for place, held, module in zip(places, all_held, made, strict=True):
        exchanged = _exchanged_rows(held) or _inject(held)
        exchanged.made[place.part.replace(".", "_")] = module.train(held.module.training)
        exchanged.places[place.part.replace(".", "_")] = (f"{place.name}.{of}", held.start, held.stop)
    return tuple(made)


def _checked(module: Any, rows: Tensor, *, name: str) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise InputError(f"{name}: make: expected a module, got {type(module).__name__}")
    with torch.no_grad():
        given = module(rows)
    found, expected = ((tuple(x.shape), x.dtype, x.device) for x in (given, rows))
    if found != expected:
        raise InputError(f"{name}: make: expected a module that gives {expected}, got {found}")
    return module


def _exchanged_rows(held: Held) -> ExchangedRows | None:
    """What stands there, if anything does."""
    if not parametrize.is_parametrized(held.module, held.name):
        return None
    found: Any = held.module.parametrizations
    return next((one for one in found[held.name] if isinstance(one, ExchangedRows)), None)


def _taken(held: Held) -> list[range]:
    exchanged = _exchanged_rows(held)
    return [] if exchanged is None else [range(start, stop) for _, start, stop in exchanged.places.values()]


def _inject(held: Held) -> ExchangedRows:
    layer, parameter = held.module, held.module.get_parameter(held.name)
    exchanged = ExchangedRows(learnt=parameter.requires_grad, order=list(layer._parameters))
    _own_class_(layer)
    parametrize.register_parametrization(layer, held.name, exchanged, unsafe=True)
    parameter.requires_grad_(False)
    return exchanged


def _own_class_(layer: nn.Module) -> None:
    """A copied layer shares the class that torch made for it; what is changed in the class must be its own."""
    if parametrize.is_parametrized(layer):
        inside = {name: value for name, value in vars(type(layer)).items() if name not in ("__dict__", "__weakref__")}
        layer.__class__ = type(type(layer).__name__, type(layer).__bases__, inside)


def exchanged(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that are in place, by place and ``weight`` or ``bias``, such as ``image.blocks.3.q.weight``."""
    return {name: rows.made[key] for _, _, rows in _all(model) for key, (name, _, _) in rows.places.items()}


def _all(model: nn.Module) -> list[tuple[nn.Module, str, ExchangedRows]]:
    """Every layer and its parameter with what is exchanged in it."""
    found = list[tuple[nn.Module, str, ExchangedRows]]()
    for layer in model.modules():
        held: Any = layer.parametrizations if parametrize.is_parametrized(layer) else {}
        found += [(layer, name, one) for name, many in held.items() for one in many if isinstance(one, ExchangedRows)]
    return found


def merge_(model: nn.Module) -> nn.Module:
    """Fold everything that is exchanged into plain weights; outputs are unchanged.

    The parameters are the same tensors as ever, so ``tether.save``, exports and other edits see a plain model.

    Raises:
        InputError: nothing is exchanged in the model.
    """
    return _end(model, merge=True)


def take_back_(model: nn.Module) -> nn.Module:
    """Put the plain weights back, to the bit, and drop all that is exchanged.

    Raises:
        InputError: nothing is exchanged in the model.
    """
    return _end(model, merge=False)


def _end(model: nn.Module, *, merge: bool) -> nn.Module:
    found = _all(model)
    if not found:
        raise InputError(f"{type(model).__name__} has nothing exchanged")
    for layer, name, rows in found:
        _own_class_(layer)
        plain = layer.parametrizations[name].original  # pyrefly: ignore
        if merge:
            with torch.no_grad():
                plain.copy_(getattr(layer, name))
        parametrize.remove_parametrizations(layer, name, leave_parametrized=False)
        plain.requires_grad_(rows.learnt)
        for known in rows.order:
            if known in layer._parameters:
                layer._parameters[known] = layer._parameters.pop(known)
    return model


def save_exchanged(model: nn.Module, path: str | Path) -> Path:
    """Write what is exchanged in a model, without its own weights, as one safetensors file.

    Args:
        model: it.
        path: the file.

    Returns:
        The file; it also says which plain weights it belongs to.

    Raises:
        InputError: nothing is exchanged.
    """
    state = _state(model)
    write_weights(Path(path), state, metadata={"format": FORMAT, "plain": _plain_digest(model)})
    return Path(path)


def load_exchanged_(model: nn.Module, path: str | Path) -> nn.Module:
    """Read what ``save_exchanged`` wrote, into modules that ``replace`` has put at the same places.

    Raises:
        InputError: not such a file, other places or shapes, or the plain weights below are others than at saving.
    """
    path, state = Path(path), _state(model)
    given, said = read_weights(path), read_metadata(path)
    if said.get("format") != FORMAT:
        raise InputError(f"{path}: expected what save_exchanged wrote ({FORMAT}), got {said.get('format')!r}")
    shapes, expected = ({name: tuple(value.shape) for name, value in one.items()} for one in (given, state))
    for name in sorted(shapes.keys() | expected.keys()):
        if shapes.get(name) != expected.get(name):
            raise InputError(
                f"{path}: {name}: the file has {shapes.get(name, 'nothing')}, the model {expected.get(name, 'nothing')}"
            )
    if said.get("plain") != _plain_digest(model):
        raise InputError(f"{path}: belongs to other plain weights than this model's")
    with torch.no_grad():
        for name, value in state.items():
            value.copy_(given[name])
    return model


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The modules' own tensors, not copied."""
    found = exchanged(model)
    if not found:
        raise InputError(f"{type(model).__name__} has nothing exchanged")
    return {f"{place}.{name}": value for place, made in found.items() for name, value in made.state_dict().items()}


def _plain_digest(model: nn.Module) -> str:
    """Of the plain rows at all places."""
    holder = nn.Module()
    for layer, name, rows in _all(model):
        whole: Any = layer.parametrizations[name].original  # pyrefly: ignore
        for place, start, stop in rows.places.values():
            holder.register_buffer(place.replace(".", "/"), whole[start:stop])
    return model_digest(holder)
