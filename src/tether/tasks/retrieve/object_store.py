"""Embeddings in an object store: written so that nobody sees half of them, and read back whole."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from tether.core.atomic_io import parse_json, read_text, write_json
from tether.core.cache_folder import cache_dir
from tether.core.errors import InputError, WriteError, refusing
from tether.core.shape import check
from tether.data.bad_rows import named_in
from tether.data.features.parts import LEDGER, MadePart, part_digest
from tether.data.paths import filesystem, here, is_url, points_outside
from tether.tasks.retrieve import shards
from tether.tasks.retrieve.shards import BAD_ROWS, NAMES, STATE

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

MANIFEST = "manifest.json"
"""Comes last into a folder; without it the folder is not finished."""
_ATOMIC = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "hf", "memory"}
"""Protocols whose objects appear whole."""
_SHAPE = {
    "format": str,
    **dict.fromkeys(NAMES, str),
    "rows": int,
    "bad": int,
    "shards": [{"file": str, "rows": int, "bytes": int, "blake2b": str}],
}
_FORMAT = "tether embeddings 1"


class StorePlace:
    """One file or folder of an object store.

    Attributes:
        url: as it was given, without a slash at its end.
        single: whether it is one Parquet file.
    """

    def __init__(self, url: str) -> None:
        """Find the file system.

        Raises:
            InputError: an unknown protocol, or one whose library is missing.
        """
        self.url = url.rstrip("/")
        self.single = self.url.endswith(".parquet")
        if "::" in self.url or "?" in self.url:
            raise InputError(f"{url:.200}: expected the plain URL of a file that ends in .parquet, or of a folder")
        self._system: AbstractFileSystem
        self._system, self._path = filesystem(self.url)

    @property
    def folder(self) -> str:
        """Where parts lie: the place itself, or beside a single file until that is written."""
        return f"{self.url}.parts" if self.single else self.url

    @property
    def bad_rows(self) -> str:
        """Where the log of bad rows lies."""
        return f"{self.url.removesuffix('.parquet')}.{BAD_ROWS}" if self.single else f"{self.url}/{BAD_ROWS}"

    def holds_parquet(self) -> bool:
        """Whether Parquet files lie in the folder."""
        with refusing(f"{self.url:.200}: cannot list it"):
            self._system.invalidate_cache()
            return bool(self._system.glob(f"{self._path}/*.parquet"))

    def exists(self, url: str) -> bool:
        """Whether an object is there."""
        with refusing(f"{url:.200}: cannot be asked for"):
            self._system.invalidate_cache()
            return bool(self._system.exists(self._inner(url)))

    def put(self, file: Path, url: str) -> None:
        """A local file as an object, whole or not at all.

        Raises:
            WriteError: it could not be written.
        """
        inner = self._inner(url)
        try:
            protocols = self._system.protocol
            if {protocols} & _ATOMIC if isinstance(protocols, str) else set(protocols) & _ATOMIC:
                self._system.put_file(str(file), inner)
                return
            folder, _, name = inner.rpartition("/")
            self._system.makedirs(folder, exist_ok=True)
            beside = f"{folder}/.{name}.tmp"
            self._system.put_file(str(file), beside)
            self._system.mv(beside, inner)
        except Exception as error:  # the protocols' libraries raise many kinds
            raise WriteError(url, error, safe="what was written before is kept") from error

    def get(self, url: str, file: Path) -> None:
        """An object as a local file."""
        with refusing(f"{url:.200}: cannot be read"):
            file.parent.mkdir(parents=True, exist_ok=True)
            self._system.get_file(self._inner(url), str(file))

    def remove(self, url: str) -> None:
        """Remove an object, or a folder with all in it; what cannot be removed stays."""
        with contextlib.suppress(Exception):
            self._system.rm(self._inner(url), recursive=True)

    def bad_count(self) -> int:
        """Rows that the log of bad rows names."""
        if not self.exists(self.bad_rows):
            return 0
        with tempfile.TemporaryDirectory() as near:
            self.get(self.bad_rows, Path(near) / BAD_ROWS)
            return len(set(named_in(Path(near) / BAD_ROWS)))

    def schema(self) -> tuple[dict[bytes, bytes], int]:
        """Metadata and rows of the single file."""
        with refusing(f"{self.url:.200}: not a Parquet file"), self._system.open(self._path, "rb") as opened:
            file = pq.ParquetFile(opened)
            return dict(file.schema_arrow.metadata or {}), file.metadata.num_rows

    def _inner(self, url: str) -> str:
        return str(self._system._strip_protocol(url))


class Staging:
    """Parts on this machine, each copied into an object store as soon as it is finished.

    Another machine that goes on fetches them first. The ledger follows each part, so that it names none that is not
    there.

    Attributes:
        folder: for parts, in the user's cache.
        place: where they go.
        parts: those that are there, in order.
    """

    def __init__(self, place: StorePlace) -> None:
        """Nothing is fetched yet."""
        self.place = place
        name = hashlib.blake2b(place.url.encode(), digest_size=12).hexdigest()
        self.root = cache_dir() / "embed" / name
        self.folder = self.root / "parts"
        self.parts: list[MadePart] = []
        self._there: dict[str, str] = {}

    def fetch(self) -> None:
        """Bring what another machine has finished.

        Raises:
            InputError: somebody else's Parquet files lie there.
        """
        folder = self.place.folder
        if not self.place.exists(f"{folder}/{LEDGER}"):
            if not self.place.single and self.place.holds_parquet():
                raise InputError(f"{folder}: holds Parquet files of something else; choose another --out")
            shutil.rmtree(self.folder, ignore_errors=True)  # of a run whose files were removed there, maybe another
            return
        with tempfile.TemporaryDirectory() as near:
            ledger = Path(near) / LEDGER
            self.place.get(f"{folder}/{LEDGER}", ledger)
            for line in ledger.read_text(encoding="utf-8", errors="replace").split("\n"):
                with contextlib.suppress(InputError, KeyError, TypeError):
                    said = parse_json(line, where=f"{folder}/{LEDGER}")
                    self._there[str(said["path"])] = str(said["digest"])
            if (self.folder / LEDGER).exists():
                return
            for name in self._there:
                if points_outside(name) or "/" in name or not name.endswith(".parquet"):
                    raise InputError(f"{folder}/{LEDGER}: names {name!r:.200}, which is no part")
                self.place.get(f"{folder}/{name}", self.folder / name)
            self.place.get(f"{folder}/{STATE}", self.folder / STATE)
            shutil.copyfile(ledger, self.folder / LEDGER)  # last: a part that it does not name is made again

    def follow(self, part: MadePart) -> None:
        """Copy a part that is finished, and what says so."""
        self.parts.append(part)
        if self._there.get(part.path.name) == part.digest:
            return
        folder = self.place.folder
        if not self._there:
            self.place.put(self.folder / STATE, f"{folder}/{STATE}")
        self.place.put(part.path, f"{folder}/{part.path.name}")
        self._there[part.path.name] = part.digest
        self.place.put(self.folder / LEDGER, f"{folder}/{LEDGER}")

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Make it whole in the store: the one file, or the manifest of the folder; and remove what lies here."""
        log = self.folder / BAD_ROWS
        if log.exists():
            self.place.put(log, self.place.bad_rows)
        if self.place.single:
            whole = self.root / "whole.parquet"
            shards.join([part.path for part in self.parts], whole)
            self.place.put(whole, self.place.url)
            self.place.remove(self.place.folder)
        else:
            named = [
                {"file": part.path.name, "rows": part.rows, "bytes": part.path.stat().st_size, "blake2b": part.digest}
                for part in self.parts
            ]
            write_json(self.root / MANIFEST, {"format": _FORMAT, **facts, "shards": named})
            self.place.put(self.root / MANIFEST, f"{self.place.url}/{MANIFEST}")
        self.clear()

    def clear(self) -> None:
        """Remove what lies here, when all is there."""
        shutil.rmtree(self.root, ignore_errors=True)


def manifest_of(place: StorePlace) -> dict[str, Any] | None:
    """The manifest of a folder that is finished, or None.

    Raises:
        InputError: it is no manifest of embeddings; it names the key.
    """
    url = f"{place.url}/{MANIFEST}"
    if not place.exists(url):
        return None
    with tempfile.TemporaryDirectory() as folder:
        place.get(url, Path(folder) / MANIFEST)
        said = parse_json(read_text(Path(folder) / MANIFEST), where=url)
    check(said, _SHAPE, where=url)
    if said["format"] != _FORMAT:
        raise InputError(f"{url}: format: expected {_FORMAT!r}, got {said['format']!r:.100}")
    names = [shard["file"] for shard in said["shards"]]
    if not names or len(set(names)) < len(names):
        raise InputError(f"{url}: shards: expected the names of parts, once each, got {names!r:.200}")
    if (rows := sum(shard["rows"] for shard in said["shards"])) != said["rows"]:
        raise InputError(f"{url}: rows: {said['rows']:,}, but the parts that it names have {rows:,}")
    return said


@contextlib.contextmanager
def files_here(path: Path | str) -> Iterator[list[Path]]:
    """The Parquet files of embeddings, of a URL as copies that last as long as the block.

    Args:
        path: a file or folder, or the URL of one.

    Raises:
        InputError: nothing there, a folder that is not finished, or a part that is not the one that was written.
    """
    near = here(str(path))
    if not is_url(near):
        yield shards.files_of(Path(near))
        return
    place = StorePlace(near)
    with tempfile.TemporaryDirectory(prefix="tether-") as folder:
        if place.single:
            place.get(place.url, Path(folder) / "embeddings.parquet")
            yield [Path(folder) / "embeddings.parquet"]
            return
        said = manifest_of(place)
        if said is None:
            raise InputError(
                f"{place.url}: no {MANIFEST} there: not finished, or not made by tether embed; the same command goes on"
            )
        found = []
        for shard in said["shards"]:
            name = shard["file"]
            if points_outside(name) or "/" in name:
                raise InputError(f"{place.url}/{MANIFEST}: names {name!r:.200}, which is no part")
            place.get(f"{place.url}/{name}", Path(folder) / name)
            if part_digest(Path(folder) / name) != shard["blake2b"]:
                raise InputError(f"{place.url}/{name}: damaged, or not the part that {MANIFEST} names")
            found.append(Path(folder) / name)
        yield found
