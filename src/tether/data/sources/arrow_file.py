"""Arrow files of saved data sets, which are read in place: compressed ones would unpack into memory as a whole."""

from __future__ import annotations

import struct
from pathlib import Path

import pyarrow as pa

from tether.core.errors import InputError, reason_of

_RECORD_BATCH, _DICTIONARY_BATCH = 3, 2  # MessageHeader of Arrow's Message.fbs
_HEADER_TYPE, _HEADER = 1, 2  # fields of Message
_DATA, _COMPRESSION = 1, 3  # of DictionaryBatch, of RecordBatch


def check_arrow(file: Path) -> None:
    """Refuse an Arrow stream with compressed batches; ``datasets`` writes none."""
    if not file.stat().st_size:  # Arrow would wait in it for ever
        raise InputError(f"{file}: empty, not an Arrow stream")
    try:
        with pa.memory_map(str(file)) as opened:
            packed = any(
                _is_compressed(bytes(message.metadata)) for message in pa.ipc.MessageReader.open_stream(opened)
            )
    except Exception as error:  # Arrow raises many kinds for a damaged file, and struct one of its own
        raise InputError(f"{file}: not an Arrow stream that can be read: {reason_of(error)[:200]}") from error
    if packed:
        raise InputError(f"{file}: its batches are compressed; save the data set again with datasets' save_to_disk")


def _is_compressed(message: bytes) -> bool:
    """Whether the flatbuffer of a message describes a batch with compressed buffers."""
    root = _number("<I", message, 0)
    place, header = _field(message, root, _HEADER_TYPE), _field(message, root, _HEADER)
    kind = 0 if place is None else message[place]
    if header is None or kind not in (_RECORD_BATCH, _DICTIONARY_BATCH):
        return False
    batch = header + _number("<I", message, header)
    if kind == _DICTIONARY_BATCH:
        data = _field(message, batch, _DATA)
        if data is None:
            return False
        batch = data + _number("<I", message, data)
    return _field(message, batch, _COMPRESSION) is not None


def _field(message: bytes, table: int, number: int) -> int | None:
    """Where a field of a flatbuffer's table stands; None where it was left out."""
    entries = table - _number("<i", message, table)
    at = 4 + 2 * number
    offset = _number("<H", message, entries + at) if at < _number("<H", message, entries) else 0
    return table + offset if offset else None


def _number(form: str, message: bytes, at: int) -> int:
    (found,) = struct.unpack_from(form, message, at)
    return found
