"""Masks of images as PNG files of class numbers beside each other in a folder, and as one COCO file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from jaxtyping import UInt8

from tether.core.atomic_io import atomic_path, local, regular
from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.masks import NO_CLASS, Masks
from tether.core.printable import is_text, quoted
from tether.data.dense_labels import read_png

COCO_FILE = "masks.json"
MARK = "tether masks"
"""Name of the text in a PNG that says what the mask was made of."""
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".avif", ".dcm")
_SAFE = re.compile(r"[^\x00-\x1f<>:\"|?*\\]{1,180}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST = 240
"""Bytes of a file's name: systems take 255, and an unfinished file has a longer name."""


def stem_of(key: str) -> str:
    """A key without the ending of an image file."""
    ending = PurePosixPath(key).suffix
    return key.removesuffix(ending) if ending.lower() in _ENDINGS else key


class MaskStore:
    """The masks of a source's images: ``KEY.png``, where the key has lost the ending of an image file.

    Of two keys that would have one file the second keeps its ending; a key that no file can have is hashed, and so is
    one below a folder that would have the name of another key's file. Each file says what it was made of, so that a
    second run keeps it and nothing else is ever written over.
    """

    def __init__(self, folder: Path | str, *, replace: bool = False) -> None:
        """Choose the folder; it need not be there.

        Args:
            folder: where the files are.
            replace: whether masks that were made of something else are written anew, or refused.

        Raises:
            InputError: a file is there.
        """
        self.folder, self.replace = local(folder), replace
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"--out: {folder} is a file; expected a folder")
        self._owner: dict[str, str | None] = {}  # of names in lower case; None owns folders

    def name(self, key: str) -> str:
        """Name of a key's file below the folder, with ``/`` between its parts."""
        for stem in (
            stem_of(key),
            key,
            hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=16).hexdigest(),
        ):
            name = f"{stem}.png"
            if _is_name(name) and self._is_free(name.casefold(), key):
                return name
        raise InputError(f"{quoted(key)}: comes twice")

    def _is_free(self, name: str, key: str) -> bool:
        """Whether a file may have the name; from then on it is the key's."""
        folders = [str(folder) for folder in PurePosixPath(name).parents][:-1]
        if any(self._owner.get(folder) is not None for folder in folders) or self._owner.setdefault(name, key) != key:
            return False
        self._owner.update(dict.fromkeys(folders))
        return True

    def read(self, key: str, classes: Sequence[str], *, made_of: str, size: tuple[int, int]) -> Masks | None:
        """The masks of an image, if they are there and were made of just this.

        Args:
            key: of the image.
            classes: names.
            made_of: what ``write`` was told.
            size: height and width of the image.

        Raises:
            InputError: a file that was made of something else, unless it is a mask and shall be replaced.
        """
        path = self.folder / self.name(key)
        if not path.exists():
            return None
        said = _mark_of(path) if path.is_file() else None
        if said == made_of:
            with contextlib.suppress(InputError):
                labels = read_png(path)
                if labels.shape == size:
                    return Masks(tuple(classes), labels.astype(np.uint8))
            return None
        if said is None:
            raise InputError(f"{path}: is there already and is no mask of Tether's; give another folder")
        if not self.replace:
            raise InputError(
                f"{path}: was made with other settings, classes, model or image; give another folder, or "
                "--existing replace (replace_masks=True)"
            )
        return None

    def write(self, key: str, masks: Masks, *, made_of: str) -> Path:
        """Write a palette PNG whose values are class numbers, whole or not at all."""
        from PIL.PngImagePlugin import PngInfo

        path, info = self.folder / self.name(key), PngInfo()
        info.add_text(MARK, made_of)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            masks.to_image().save(file, format="PNG", pnginfo=info, optimize=False)
        return path


def _is_name(name: str) -> bool:
    """Whether every system takes it for a file below a folder."""
    return is_text(name) and len(name) <= 400 and all(map(_is_part, name.split("/")))


def _is_part(part: str) -> bool:
    usual = _SAFE.fullmatch(part) and not _RESERVED.fullmatch(part)
    return bool(usual) and part != ".png" and not part.endswith((".", " ")) and len(part.encode()) <= _LONGEST


def _mark_of(path: Path) -> str | None:
    """What a PNG was made of; None where it does not say."""
    from PIL import Image

    try:
        with Image.open(regular(path), formats=("PNG",)) as image:
            return image.info.get(MARK)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


class PngFolder:
    """A folder with a PNG for some images: ``KEY.png``, KEY with or without the ending of an image file."""

    def __init__(self, folder: Path | str, *, where: str) -> None:
        """List the files.

        Args:
            folder: with the files.
            where: what the folder is called in errors.

        Raises:
            InputError: no such folder, or no PNG in it.
        """
        self.folder, self._where = local(folder), where
        if not self.folder.is_dir():
            raise InputError(f"{where}: {folder}: no such folder; expected one with KEY.png for each image")
        self._files = {one.relative_to(self.folder).as_posix()[:-4]: one for one in sorted(self.folder.rglob("*.png"))}
        if not self._files:
            raise InputError(f"{where}: {folder}: holds no PNG; expected KEY.png for each image")

    def path(self, key: str) -> Path | None:
        """The file of an image, or None."""
        return next((self._files[stem] for stem in (key, stem_of(key)) if stem in self._files), None)

    def nothing_for(self, keys: Sequence[str]) -> InputError:
        """The error of a folder that has no file for any of these images."""
        known = closest(stem_of(keys[0]), self._files)
        return InputError(
            f"{self._where}: {self.folder}: no file for any of {len(keys)} images, such as {keys[0]!r}; {known}"
        )


def check_size(path: Path, values: np.ndarray, *, key: str, size: tuple[int, int]) -> None:
    """Refuse the values of a file that are not those of its image's height and width."""
    if values.shape[:2] != size:
        got = f"{values.shape[1]} x {values.shape[0]}"
        raise InputError(f"{path}: expected the {size[1]} x {size[0]} pixels of its image {quoted(key)}, got {got}")


class LabelFolder(PngFolder):
    """A folder with the true classes of images, grey or with a palette.

    The value of a pixel is the number of its class, counted from 0 over all numbers but ``no_class``.
    """

    def __init__(self, folder: Path | str, classes: Sequence[str], *, no_class: int = NO_CLASS) -> None:
        """List the files.

        Args:
            folder: with the files.
            classes: their names, in the order of their numbers.
            no_class: the value of pixels that have no class, 0 to 255; 255 is none beside it, too.

        Raises:
            InputError: no such folder, no PNG in it, or ``no_class`` is out of its range.
        """
        if not 0 <= no_class <= NO_CLASS:
            raise InputError(f"no_class: expected a value of pixels, 0 to {NO_CLASS}, got {no_class}")
        super().__init__(folder, where="labels")
        self.classes, self.no_class = tuple(classes), no_class

    def read(self, key: str, *, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"] | None:
        """The classes of an image's pixels; None where it has no file.

        Args:
            key: of the image.
            size: its height and width.

        Raises:
            InputError: another size, colours in place of class numbers, or a number that no class has; it names the
                file.
        """
        path = self.path(key)
        if path is None:
            return None
        values = read_png(path)
        if values.ndim != 2 or values.dtype.kind not in "uib":
            raise InputError(f"{path}: expected class numbers, as a grey or palette PNG, got colours {values.shape}")
        check_size(path, values, key=key, size=size)
        numbers = [value for value in range(len(self.classes) + 1) if value != self.no_class][: len(self.classes)]
        if (strange := values[~np.isin(values, [*numbers, self.no_class, NO_CLASS])]).size:
            raise InputError(
                f"{path}: class {int(strange[0])} is unknown; expected {numbers[0]} ({self.classes[0]}) to "
                f"{numbers[-1]} ({self.classes[-1]}), or {self.no_class} for none"
            )
        order = np.full(NO_CLASS + 1, NO_CLASS, dtype=np.uint8)
        order[numbers] = np.arange(len(numbers))
        return order[values.astype(np.uint8)]


class CocoFile:
    """One file in COCO's format, written image by image."""

    def __init__(self, file: IO[str]) -> None:
        """Begin; see ``coco_file``."""
        self._file, self._images, self._count = file, list[dict[str, Any]](), 0
        file.write('{"annotations": [')

    def add(self, key: str, masks: Masks, *, file_name: str) -> None:
        """Add an image with its annotations.

        Args:
            key: of the image.
            masks: of it.
            file_name: of its PNG, below the folder of masks.
        """
        number, (height, width) = len(self._images) + 1, masks.size
        self._images.append({"id": number, "file_name": key, "width": width, "height": height, "masks": file_name})
        for one in masks.to_coco(number, first_id=self._count + 1):
            self._file.write((",\n" if self._count else "\n") + json.dumps(one, separators=(",", ":")))
            self._count += 1

    def finish(self, categories: Sequence[Mapping[str, Any]]) -> None:
        """Write what all images share."""
        rest = {"images": self._images, "categories": list(categories), "info": {"description": MARK}}
        self._file.write("\n], " + json.dumps(rest, ensure_ascii=True)[1:] + "\n")


@contextlib.contextmanager
def coco_file(path: Path, categories: Sequence[Mapping[str, Any]]) -> Iterator[CocoFile]:
    """A COCO file that appears when all is written.

    Args:
        path: of the file.
        categories: as ``Masks.categories`` gives them.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        made = CocoFile(file)
        yield made
        made.finish(categories)
