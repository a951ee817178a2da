"""Test sets that ask which caption belongs to an image, and which image to a caption: SugarCrepe, Winoground, ARO."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tether.core.atomic_io import parse_json, read_json, read_text
from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.types import Block, ImageLike, Row
from tether.data.images import decode
from tether.data.paths import fingerprint
from tether.data.sources.columns import Reach, bad_row
from tether.data.sources.parquet_file import open_parquet, read_batches
from tether.data.suites.aro_relations import LEFT_OUT

SUGARCREPE = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
ARO = {"visual_genome_relation": "relation_name", "visual_genome_attribution": "attributes"}
"""File without its ending, and the key that says which kind a question is of."""
ARO_ORDERS = ("coco_order", "flickr30k_order")
"""Files of ARO's orders of words: its loader makes them, see ``aro_order``."""
LEAST_OF_A_KIND = 25
"""Questions of one kind below which ARO leaves a pair of attributes out of the mean."""
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
_MOST_BYTES = 1 << 30
_PAIRS = ("image_0", "image_1", "caption_0", "caption_1")


@dataclass(frozen=True, slots=True)
class CaptionChoice:
    """One question.

    Attributes:
        key: of the question, for errors.
        images: keys of its image rows: one, or two of which the first belongs to the first caption.
        captions: two, or of a question about one image several, in every question of a set as many.
        right: which caption belongs to the first image; of two the other belongs to the second, where there is one.
        group: kind of question; the empty string where it takes no part in the mean over kinds.
    """

    key: str
    images: tuple[str, ...]
    captions: tuple[str, ...]
    right: int = 0
    group: str = ""


@dataclass
class ChoiceSet:
    """Questions and the distinct images that they are about; a ``core.protocols.Source`` of those images.

    Attributes:
        name: what it is called in tables.
        choices: the questions.
        version: digest of the files.
        least: questions of one kind below which the kind is left out of the mean over kinds.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from tether.data.suites import find_sets
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "val2017").mkdir()
        >>> asked = {"0": {"filename": "1.jpg", "caption": "a dog on a mat", "negative_caption": "a mat on a dog"}}
        >>> _ = (folder / "swap_obj.json").write_text(json.dumps(asked))
        >>> find_sets(folder)[0].choices[0].captions
        ('a dog on a mat', 'a mat on a dog')
    """

    name: str
    choices: tuple[CaptionChoice, ...]
    version: str
    _open: Callable[[], Iterator[tuple[str, Callable[[], ImageLike]]]] = field(repr=False)
    least: int = LEAST_OF_A_KIND

    def blocks(self) -> Sequence[Block]:
        """One, of all images."""
        return [Block("images")]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        """Every distinct image once, from image ``start`` on."""
        for number, (key, image) in enumerate(self._open()):
            if number >= start:
                try:
                    yield Row(key, image())
                except InputError as error:
                    yield bad_row(key, str(error))


def sugarcrepe(file: Path, *, name: str) -> ChoiceSet:
    """SugarCrepe (arXiv 2306.14610): an image, its caption and one that is false, as the official JSON has them.

    Args:
        file: ``swap_obj.json`` and so on; images lie beside it in ``val2017/``.
        name: what the set is called.
    """
    rows = read_json(file)
    if not isinstance(rows, dict):
        raise InputError(f"{file}: expected an object of questions by number, got {type(rows).__name__}")
    folder = _images(file.parent, ("val2017", "images"))
    choices = []
    for key, row in rows.items():
        where = f"{file}: question {key!r}"
        image, *captions = (_text(row, each, where=where) for each in ("filename", "caption", "negative_caption"))
        choices.append(CaptionChoice(key, (image,), (captions[0], captions[1])))
    return _of_files(name, choices, file=file, folder=folder)


def aro(file: Path, *, name: str) -> ChoiceSet:
    """ARO's relations and attributes (arXiv 2210.01936): a stretch of an image, a true and a false caption.

    The mean over kinds is the official one: over pairs of attributes with at least 25 questions, and over relations,
    however few they have, but those in ``LEFT_OUT``.

    Args:
        file: ``visual_genome_relation.json`` or ``visual_genome_attribution.json``; images lie in ``images/``.
        name: what the set is called.
    """
    rows, kind = read_json(file), ARO[file.stem]
    if not isinstance(rows, list):
        raise InputError(f"{file}: expected a list of questions, got {type(rows).__name__}")
    folder = _images(file.parent, ("images",))
    choices, boxes = [], dict[str, tuple[str, tuple[int, ...]]]()
    for number, row in enumerate(rows):
        where = f"{file}: question {number}"
        image, false, true = (_text(row, each, where=where) for each in ("image_path", "false_caption", "true_caption"))
        box = tuple(row.get(each) for each in BOX)
        if not all(isinstance(each, int | float) for each in box) or min(box[2:]) < 1:
            raise InputError(f"{where}: expected numbers in {', '.join(BOX)}, width and height above 0, got {box}")
        box = tuple(round(each) for each in box)
        key = f"{image} {box}"
        boxes[key] = image, box
        said = row.get(kind, "")
        group = " ".join(map(str, said)) if isinstance(said, list) else str(said)
        group = "" if group in LEFT_OUT else group
        choices.append(CaptionChoice(str(number), (key,), (false, true), right=1, group=group))
    least = 1 if kind == "relation_name" else LEAST_OF_A_KIND
    return _of_files(name, choices, file=file, folder=folder, boxes=boxes, least=least)


def aro_order(file: Path, *, name: str) -> ChoiceSet:
    """ARO's orders of words (arXiv 2210.01936): a caption, and the same words in other orders.

    ARO publishes no files of them; its ``COCO_Order`` and ``Flickr30k_Order`` draw the orders when they are made. The
    file is their ``test_cases`` as JSON, so that every model is asked the same.

    Args:
        file: ``coco_order.json`` or ``flickr30k_order.json``: a list of ``{"image": ..., "caption_options": [...]}``,
            the true caption first; images lie where their paths say, seen from the file's folder.
        name: what the set is called.
    """
    rows = read_json(file)
    if not isinstance(rows, list):
        raise InputError(f"{file}: expected a list of questions, got {type(rows).__name__}")
    choices = []
    for number, row in enumerate(rows):
        where = f"{file}: question {number}"
        image = _text(row, "image", where=where)
        options = row.get("caption_options")
        if not isinstance(options, list) or len(options) < 2:
            raise InputError(f"{where}: expected at least two captions in 'caption_options', got {quoted(options)}")
        captions = tuple(_text(dict(enumerate(options)), place, where=where) for place in range(len(options)))
        if choices and len(captions) != len(choices[0].captions):
            raise InputError(f"{where}: {len(captions)} captions; question 0 has {len(choices[0].captions)}")
        choices.append(CaptionChoice(str(number), (image,), captions))
    return _of_files(name, choices, file=file, folder=file.parent)


def winoground_lines(file: Path, *, name: str) -> ChoiceSet:
    """Winoground (arXiv 2204.03162) as ``examples.jsonl`` beside ``images/``: two images, two captions.

    Args:
        file: one object on each line.
        name: what the set is called.
    """
    folder = _images(file.parent, ("images",))
    choices = []
    for number, line in enumerate(read_text(file, limit=_MOST_BYTES).splitlines(), 1):
        if line.strip():
            where = f"{file}: line {number}"
            cells = [_text(parse_json(line, where=where), each, where=where) for each in _PAIRS]
            images = tuple(each if Path(each).suffix else f"{each}.png" for each in cells[:2])
            choices.append(CaptionChoice(str(number), images, (cells[2], cells[3])))
    return _of_files(name, choices, file=file, folder=folder)


def winoground_parquet(files: Sequence[Path], *, name: str) -> ChoiceSet:
    """Winoground as Hugging Face's parquet: the bytes of two images, and two captions, in each row.

    Args:
        files: in their order.
        name: what the set is called.
    """

    def cells(columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in map(str, files):
            file = open_parquet(path)
            count = 0
            for group in range(file.num_row_groups):
                for batch in read_batches(
                    file, path=path, group=group, columns=columns, rows=16, dictionaries="decoded"
                ):
                    for row in batch.to_pylist():
                        yield f"{path}: row {count}", row
                        count += 1

    def images() -> Iterator[tuple[str, Callable[[], ImageLike]]]:
        for where, row in cells(_PAIRS[:2]):
            for each in _PAIRS[:2]:
                yield f"{where}, {each}", partial(_bytes, row[each])

    choices = []
    for where, row in cells(_PAIRS[2:]):
        captions = tuple(_text(row, each, where=where) for each in _PAIRS[2:])
        choices.append(CaptionChoice(where, (f"{where}, image_0", f"{where}, image_1"), (captions[0], captions[1])))
    return ChoiceSet(name, _some(choices, where=str(files[0])), fingerprint(list(map(str, files))), images)


def is_pairs(file: Path) -> bool:
    """Whether a Parquet file has Winoground's columns."""
    return set(_PAIRS) <= set(open_parquet(str(file)).schema_arrow.names)


def _of_files(
    name: str,
    choices: Sequence[CaptionChoice],
    *,
    file: Path,
    folder: Path,
    boxes: Mapping[str, tuple[str, tuple[int, ...]]] | None = None,
    least: int = LEAST_OF_A_KIND,
) -> ChoiceSet:
    reach = Reach((str(folder),))

    def images() -> Iterator[tuple[str, Callable[[], ImageLike]]]:
        for key in dict.fromkeys(key for choice in choices for key in choice.images):
            if boxes is None:
                yield key, partial(reach.open, key)
            else:
                image, box = boxes[key]
                yield key, partial(_cropped, reach, image, box)

    version = fingerprint([str(file)], settings=str(folder))
    return ChoiceSet(name, _some(choices, where=str(file)), version, images, least)


def _cropped(reach: Reach, image: str, box: Sequence[int]) -> np.ndarray:
    """The stretch of an image in a box; what lies outside of the image is black, as Pillow's crop has it."""
    path = reach.open(image)
    pixels = decode(path, name=image).permute(1, 2, 0).numpy()
    left, top, width, height = box
    if width > 16 * pixels.shape[1] or height > 16 * pixels.shape[0]:
        raise InputError(f"a box of {width} x {height} in an image of {pixels.shape[1]} x {pixels.shape[0]}")
    found = np.zeros((height, width, 3), dtype=np.uint8)
    rows = slice(max(0, top), max(0, min(pixels.shape[0], top + height)))
    columns = slice(max(0, left), max(0, min(pixels.shape[1], left + width)))
    part = pixels[rows, columns]
    if part.size == 0:
        raise InputError(f"the box {tuple(box)} lies outside of an image of {pixels.shape[1]} x {pixels.shape[0]}")
    y, x = rows.start - top, columns.start - left
    found[y : y + part.shape[0], x : x + part.shape[1]] = part
    return found


def _bytes(cell: Any) -> bytes:
    data = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if not isinstance(data, bytes):
        raise InputError(f"expected an image's bytes, got {type(data).__name__}")
    return data


def _some(choices: Sequence[CaptionChoice], *, where: str) -> tuple[CaptionChoice, ...]:
    if not choices:
        raise InputError(f"{where}: no question in it")
    return tuple(choices)


def _images(folder: Path, names: Sequence[str]) -> Path:
    """Where the images lie: beside the file, or beside its folder, as where a repository has ``data/``."""
    spots = [near / name for near in (folder, folder.parent) for name in names]
    found = next((spot for spot in spots if spot.is_dir()), None)
    if found is None:
        raise InputError(f"{folder}: expected its images in {' or '.join(f'{name}/' for name in names)}")
    return found


def _text(row: Any, key: str | int, *, where: str) -> str:
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: expected an object, got {type(row).__name__}")
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: expected text in {key!r}, got {quoted(value)}")
    return value
