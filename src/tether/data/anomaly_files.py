"""Maps of how unusual places are as files that a second run keeps, and masks of defects as people give them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from tether.core.anomaly_map import AnomalyMap
from tether.core.atomic_io import atomic_path, local, parse_json, read_json, regular, write_json
from tether.core.errors import InputError
from tether.data.dense_labels import read_png
from tether.data.mask_files import MaskStore, PngFolder, check_size

MARK = "tether anomaly"
"""Key of what a file says of itself."""
GOOD = "good.json"
HEAT_LONGEST = 1024
"""Pixels of the long side of a heat map."""
_SAID = 270  # TIFF's ImageDescription


class MapStore:
    """Maps of a source's images: ``maps/KEY.tiff``, float32, and ``heat/KEY.png``, in colours.

    Names are those of ``mask_files.MaskStore``. Each map says what it was made of, so that a second run keeps it and
    nothing else is ever written over.
    """

    def __init__(self, folder: Path | str, *, replace: bool = False) -> None:
        """Choose the folder; it need not be there.

        Args:
            folder: where ``maps`` and ``heat`` are.
            replace: whether maps that were made of something else are written anew, or refused.
        """
        self.folder, self.replace = local(folder), replace
        self._names = MaskStore(folder)

    def name(self, key: str) -> str:
        """Name of a key's map below the folder, with ``/`` between its parts."""
        return f"maps/{self._names.name(key).removesuffix('.png')}.tiff"

    def heat_name(self, key: str) -> str:
        """Likewise of its heat map."""
        return f"heat/{self._names.name(key)}"

    def read(self, key: str, *, made_of: str, size: tuple[int, int], name: str) -> AnomalyMap | None:
        """The map of an image, if it is there and was made of just this.

        Args:
            key: of the image.
            made_of: what ``write`` was told.
            size: height and width of the image.
            name: what it shows.

        Raises:
            InputError: a file that was made of something else, unless it is a map and shall be replaced.
        """
        path = self.folder / self.name(key)
        if not path.exists():
            return None
        said, values = _read_tiff(path) if path.is_file() else (None, np.zeros((0, 0)))  # a pipe would wait
        if said is None:
            raise InputError(f"{path}: is there already and is no map of Tether's; give another folder")
        if said.get(MARK) == made_of:
            with contextlib.suppress(InputError, TypeError, ValueError, KeyError):
                return AnomalyMap(float(said["score"]), values, size, name)
            return None
        if not self.replace:
            raise _other(path)
        return None

    def check(self, key: str, *, begins: str) -> bool:
        """Whether there is a map of a key, which must not be replaced unless it shall.

        Args:
            key: of the image.
            begins: what ``made_of`` begins with for all images of one run.

        Raises:
            InputError: see ``read``.
        """
        path = self.folder / self.name(key)
        if not path.is_file():
            return False
        said, _ = _read_tiff(path)
        if said is not None and not self.replace and not str(said.get(MARK)).startswith(begins):
            raise _other(path)
        return True

    def write(self, key: str, found: AnomalyMap, *, made_of: str) -> Path:
        """Write a map as the detector gave it, whole or not at all."""
        from PIL import Image

        path = self.folder / self.name(key)
        said = json.dumps({MARK: made_of, "score": found.score, "size": found.size})
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            Image.fromarray(found.values).save(file, format="TIFF", tiffinfo={_SAID: said})
        return path

    def write_heat(self, key: str, found: AnomalyMap, *, span: tuple[float, float]) -> Path:
        """Write a map in colours, see-through where it is usual; see ``AnomalyMap.heat``.

        Raises:
            InputError: a file is there that is no heat map of Tether's.
        """
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        path, info = self.folder / self.heat_name(key), PngInfo()
        if path.exists():
            said: Any = None
            with (
                contextlib.suppress(OSError, SyntaxError, ValueError),
                Image.open(regular(path), formats=("PNG",)) as image,
            ):
                said = image.info.get(MARK)
            if said is None:
                raise InputError(f"{path}: is there already and is no heat map of Tether's; give another folder")
        info.add_text(MARK, f"{span[0]!r} {span[1]!r}")
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            found.to_image(span=span, longest=HEAT_LONGEST).save(file, format="PNG", pnginfo=info)
        return path

    def read_good(self, keys: Sequence[str], *, made_of: str) -> list[float] | None:
        """Scores of good images, if ``good.json`` has them and they were made of just this.

        Args:
            keys: of the images.
            made_of: what ``write_good`` was told.

        Raises:
            InputError: a file that is none of Tether's.
        """
        path = self.folder / GOOD
        if not path.exists():
            return None
        said = read_json(path)
        if not isinstance(said, dict) or MARK not in said:
            raise InputError(f"{path}: is there already and is none of Tether's; give another folder")
        scores = said.get("scores")
        if said[MARK] != made_of or not isinstance(scores, dict) or list(scores) != list(keys):
            return None
        found = list(scores.values())
        return found if all(isinstance(one, float) and 0 <= one <= 1 for one in found) else None

    def write_good(self, keys: Sequence[str], scores: Sequence[float], *, made_of: str) -> None:
        """Write the scores of good images by their keys, whole or not at all."""
        write_json(self.folder / GOOD, {MARK: made_of, "scores": dict(zip(keys, scores, strict=True))})


def _other(path: Path) -> InputError:
    return InputError(
        f"{path}: was made with other settings, good images, model or image; give another folder, or "
        "--existing replace (replace_maps=True)"
    )


def _read_tiff(path: Path) -> tuple[dict[str, Any] | None, np.ndarray]:
    """What a map says of itself, None where it says nothing, and its values."""
    from PIL import Image

    nothing = np.zeros((1, 1), dtype=np.float32)
    try:
        with Image.open(regular(path), formats=("TIFF",)) as image:
            said = parse_json(str(image.tag_v2.get(_SAID, "")), where=str(path))  # pyrefly: ignore
            if not isinstance(said, dict) or MARK not in said:
                return None, nothing
            return said, np.array(image) if image.mode == "F" else nothing
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # an InputError is a ValueError
        return None, nothing


class DefectMasks(PngFolder):
    """A folder with the defects of images, black where there is none.

    An image whose mask is all black is a normal one. An image without a mask is not measured, as it may be either.
    """

    def __init__(self, folder: Path | str, *, where: str = "masks") -> None:
        """List the files.

        Args:
            folder: with the files.
            where: what the folder is called in errors.

        Raises:
            InputError: no such folder, or no PNG in it.
        """
        super().__init__(folder, where=where)

    def read(self, key: str, *, size: tuple[int, int] | None) -> Bool[np.ndarray, "h w"] | None:
        """True where an image is defective; None where it has no file.

        Args:
            key: of the image.
            size: its height and width; None takes a mask of any size.

        Raises:
            InputError: another size; it names the file.
        """
        path = self.path(key)
        if path is None:
            return None
        values = read_png(path)
        if size is not None:
            check_size(path, values, key=key, size=size)
        return values != 0 if values.ndim == 2 else (values != 0).any(axis=2)
