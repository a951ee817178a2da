"""Every reader of text by name, and the one that a folder holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

from tether.core.atomic_io import local
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.registry import Registry
from tether.core.runtime_protocol import ByAttributes
from tether.core.types import ImageLike
from tether.core.words_read import Texts
from tether.tasks.read.rapid import RapidPages

MADE_READER = "tether adapt MODEL WORDS --recipe read --out FOLDER"
"""The command that makes a reader."""
MADE_PAGES = "tether adapt MODEL PAGES --recipe read-page --out FOLDER"
"""The command that makes a reader of pages."""


@runtime_checkable
class ImageReader(Protocol, metaclass=ByAttributes):
    """Says what stands in images.

    A reader that is kept in a folder also has ``load(folder, *, device)``, a classmethod; one with scenes takes the
    ``scene_encoder`` there.

    Attributes:
        file: name of the file by which its folder is known; None for one that has no folder.
        unit: what an image holds, ``word`` or ``page``.
        scenes: whether it also looks at the whole image in which a word stands; see ``SceneReader``.
    """

    file: ClassVar[str | None]
    unit: ClassVar[str]
    scenes: ClassVar[bool]

    def read(self, images: Sequence[ImageLike], /, *, batch_size: int = 64) -> Texts:
        """What stands in each image.

        Args:
            images: at least one.
            batch_size: images that are read at once, at most.

        Raises:
            InputError: none, or one that cannot be read, by its number.
        """
        ...


READERS: Registry[ImageReader] = Registry(
    "readers",
    {
        "scene": "tether.tasks.read.scene_reader:SceneReader",
        "dual": "tether.tasks.read.reader:DualReader",
        "page": "tether.tasks.read.vision_lm:VisionLM",
        "rapidocr": "tether.tasks.read.rapid:RapidWords",
    },
)
"""Every reader by name; of those in folders the first whose file is there opens it."""


def trained_readers(*, page: bool) -> Mapping[str, type[ImageReader]]:
    """Readers that need no folder, since they come trained: of whole pages, or of crops."""
    return (
        {"rapidocr": RapidPages}
        if page
        else {name: kind for name, kind in READERS.working().items() if kind.file is None}
    )


def load_reader(
    folder: Path | str, *, model: DualEncoder | None = None, device: str = "cpu", made_by: str = MADE_READER
) -> ImageReader:
    """Open what ``save`` of a reader wrote, whatever its kind.

    Args:
        folder: of the reader.
        model: the encoder by which a reader with scenes learnt to look at them; without it such a reader is opened
            as one of crops alone.
        device: of its own model.
        made_by: the command that an error advises where no reader is there.

    Raises:
        InputError: no reader there, a damaged one, or another encoder than it learnt with.

    Example:
        >>> import tempfile
        >>> from tether.models import create
        >>> from tether.tasks.read import Charset, DualReader, load_reader
        >>> reader = DualReader(create("tiny").eval(), charset=Charset("ab"), max_length=3, heads=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     type(load_reader(reader.save(folder))).__name__
        'DualReader'
    """
    place = local(folder)
    for kind in READERS.working().values():
        if kind.file is None or not (place / kind.file).is_file():
            continue
        if kind.scenes and model is None:
            continue
        sees = {"scene_encoder": model} if kind.scenes else {}
        return cast(ImageReader, cast(Any, kind).load(place, device=device, **sees))
    raise InputError(f"{folder}: holds no reader; expected the folder of one that {made_by} made")
