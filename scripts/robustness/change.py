"""One seeded change of a file: bits, runs, lengths and slices, and values of JSON, YAML, tables and archives."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pickle
import random
import struct
import tarfile
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

MOST = 1 << 22  # bytes of a file inside an archive that are changed

HOSTILE = [
    "null", "true", "-1", "0", "1", "2", "3", "7", "64", "0.5", "1e308", "1e999", "NaN", "-Infinity", "9" * 5000,
    "1e99999", "1000000000", "1000000000000", "-1000000000", "[]", "{}",
    '""', '"0"', '"x"', '["a","b"]', "[null]", '{"a":{"b":[1]}}',
    "[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000, '"\\ud800"', '"a\\u0000b"', '"' + "a" * 5000 + '"',
    '"\\u001b]0;x\\u0007\\u001b[2J"', '"<script>alert(1)</script>"', '"=cmd|x"', '"~nouser/x"', '"/dev/zero"',
    '"../../../../etc/passwd"', '"file:///etc/passwd"', '"http://127.0.0.1:9/x.png"', '"reference://::file:///etc/passwd"',
]  # fmt: skip
HOSTILE_YAML = [
    "!!int x", "*a", "&a [*a]", "2024-01-01", '!!python/object/apply:os.system ["true"]', "? [a]\n: b", "!!binary x",
    "0x_", "1:2:3", "\t",
]  # fmt: skip
KEYS: list[tuple[str, Any]] = [
    ("trust_remote_code", True), ("auto_map", {"AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoConfig": "evil.Evil"}),
    ("tokenizer_kwargs", {"trust_remote_code": True}), ("timm_model_name", "hf-hub:evil/evil"), ("bad", "no"),
    ("hf_model_name", "evil/evil"), ("hf_tokenizer_name", "evil/evil"), ("tokenizer_class", "evil.Evil"),
    ("_attn_implementation", "evil/evil"), ("torch_dtype", "evil"), ("__map__", 1), ("__tensor__", ["load", [1], ""]),
]  # fmt: skip
EVIL = "import os\nos.system('true')\nclass Evil:\n    pass\n"
_BYTES = [
    b"\0", b"\xff", b"\xed\xa0\x80", b"\x1b[2J", b"\x80", b"\r\n", b"9" * 5000, b"a" * 3000, b"{" * 3000,
    b"\\" * 99, b"\xef\xbb\xbf",
]  # fmt: skip
_NAMES = [b"\xff\xfe.png", b"a\nb.png", b"\x1b[2J.png", b"=1+1.png", b"a" * 250 + b".png"]


class _Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("true",)


def change(folder: Path, rng: random.Random) -> str:
    """Change one file in a folder, and say what was done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "evil.py")
    path = rng.choice(files)
    data = path.read_bytes()
    kind = rng.random()
    if kind < 0.04:
        return f"{path.name}: {_exchanged(path, rng)}"
    if kind < 0.08 and len(files) > 1:
        other = rng.choice(files).read_bytes()
        new = data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]
    else:
        new = changed(data, "".join(path.suffixes[-2:]), rng)
    path.write_bytes(new)
    return f"{path.name}: {len(data)} -> {len(new)} bytes"


def _exchanged(path: Path, rng: random.Random) -> str:
    """Something else of the same name, or the same of another name."""
    what = rng.choice(["empty", "pickle", "folder", "pipe", "device", "gone", "name"])
    data = path.read_bytes()
    path.unlink()
    with suppress(OSError):  # some systems refuse some names
        if what == "empty":
            path.touch()
        elif what == "pickle":
            path.write_bytes(pickle.dumps(_Evil()))
        elif what == "folder":
            path.mkdir()
        elif what == "pipe":
            os.mkfifo(path)
        elif what == "device":
            path.symlink_to("/dev/zero")
        elif what == "name":
            path.with_name(os.fsdecode(rng.choice(_NAMES))).write_bytes(data)
    return what


def changed(data: bytes, ending: str, rng: random.Random) -> bytes:
    """The bytes with one change, or a few."""
    ending = ending.lower()
    if rng.random() < 0.6:
        with suppress(ValueError, KeyError, EOFError, OSError, zlib.error, struct.error, IndexError, tarfile.TarError,
                      zipfile.BadZipFile, csv.Error, UnicodeError, AttributeError, TypeError):  # fmt: skip
            return _structured(data, ending, rng)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        data = _bytes(data, rng)
    return data


def _structured(data: bytes, ending: str, rng: random.Random) -> bytes:
    if ending.endswith((".tgz", ".gz")):
        return gzip.compress(changed(gzip.decompress(data)[:MOST], ".tar", rng), 1)
    if ending.endswith((".tar", ".zip", ".npz")):
        return _archive(data, rng)
    if ending.endswith(".safetensors"):
        size = struct.unpack("<Q", data[:8])[0]
        header = _json(data[8 : 8 + size].decode(), rng).encode()
        return struct.pack("<Q", len(header)) + header + data[8 + size :]
    if ending.endswith((".json", ".yaml", ".jsonl")):
        text = data.decode()
        if ending.endswith(".jsonl"):
            lines = text.splitlines()
            at = rng.randrange(len(lines))
            lines[at] = _json(lines[at], rng)
            return "\n".join(lines).encode(errors="surrogatepass")
        if ending.endswith(".yaml"):
            import yaml

            return _json(json.dumps(yaml.safe_load(text)), rng, HOSTILE + HOSTILE_YAML * 3).encode()
        return _json(text, rng).encode()
    if ending.endswith((".csv", ".tsv")):
        return _table(data.decode(), "\t" if ending.endswith(".tsv") else ",", rng)
    if ending.endswith(".npy"):
        text = rng.choice(["(9223372036854775807,)", "(-1,)", "()", "(1000000000, 1000)", "(0,)", "(3.5,)", "x"])
        head, _, rest = data.partition(b"(")
        return head + text.encode() + rest.partition(b")")[2] if rng.random() < 0.7 else data.replace(b"<", b"|O", 1)
    raise ValueError(ending)


def _json(text: str, rng: random.Random, values: list[str] | None = None) -> str:
    """JSON with one value, key or entry that is another."""
    value = json.loads(text)
    places: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        inner = stack.pop()
        if isinstance(inner, (dict, list)):
            for key in inner if isinstance(inner, dict) else range(len(inner)):
                places.append((inner, key))
                stack.append(inner[key])
    hostile = rng.choice(values or HOSTILE)
    if not places:
        return hostile
    holder, key = rng.choice(places)
    kind = rng.random()
    if kind < 0.15:
        del holder[key]
    elif kind < 0.3:
        new, what = rng.choice(KEYS)
        where = rng.choice([each for each, _ in places if isinstance(each, dict)] or [{}])
        where[new] = what
    elif kind < 0.4 and isinstance(holder, list):
        holder.extend([holder[key]] * rng.choice([1, 1000]))
    elif kind < 0.5 and isinstance(holder[key], (int, float)):
        holder[key] = holder[key] * rng.choice([2, -1, 0.5, 1000, 0]) + rng.choice([0, 1, -1])
    else:
        holder[key] = "@@hostile@@"
    return json.dumps(value).replace('"@@hostile@@"', hostile)


def _table(text: str, mark: str, rng: random.Random) -> bytes:
    rows = list(csv.reader(io.StringIO(text), delimiter=mark))
    row = rng.choice(rows)
    cell = json.loads(json.dumps(rng.choice(HOSTILE)))
    with suppress(ValueError, RecursionError):
        found = json.loads(cell)
        cell = found if isinstance(found, str) else cell
    row[rng.randrange(len(row))] = rng.choice([cell, cell, "a\0b", "\udcff", "bad", "key", "a" * 200_000])
    if rng.random() < 0.2:
        row.append("more")
    out = io.StringIO()
    csv.writer(out, delimiter=mark).writerows(rows)
    return out.getvalue().encode(errors="surrogatepass" if rng.random() < 0.5 else "surrogateescape")


def _archive(data: bytes, rng: random.Random) -> bytes:
    """An archive that is sound, with one member changed or renamed."""
    members: list[tuple[str, bytes]] = []
    is_zip = data[:2] == b"PK"
    if is_zip:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    else:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = [(info.name, reader.read()) for info in archive if (reader := archive.extractfile(info))]
    at = rng.randrange(len(members))
    name, content = members[at]
    kind = rng.random()
    if kind < 0.7:
        members[at] = name, changed(content, Path(name).suffix, rng)
    elif kind < 0.85:
        members[at] = (
            rng.choice(["../x.png", "/etc/x.png", "a\0b.png", "\udcff.png", "a" * 300, "", "x/" * 600]),
            content,
        )
    else:
        members.append(members[at])
    out = io.BytesIO()
    if is_zip:
        with zipfile.ZipFile(out, "w") as archive:
            for each, content in members:
                archive.writestr(each or "x", content)
    else:
        with tarfile.open(fileobj=out, mode="w") as archive:
            for each, content in members:
                info = tarfile.TarInfo(each)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """A bit, a run, a length, a slice."""
    if not data:
        return rng.randbytes(rng.randint(1, 64))
    near = rng.random() < 0.5  # headers stand at the ends
    size = len(data)
    at = min(size - 1, int(rng.expovariate(1 / 64))) if near else rng.randrange(size)
    at = size - 1 - at if near and rng.random() < 0.4 else at
    kind = rng.randrange(7)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == 1:
        run = rng.choice([*_BYTES, rng.randbytes(rng.randint(1, 16))])
        return data[:at] + run + data[at + (len(run) if rng.random() < 0.5 else 0) :]
    if kind == 2:
        return data[:at]
    if kind == 3:
        form = rng.choice(["<H", ">H", "<I", ">I", "<Q", ">Q"])
        top = 1 << 8 * struct.calcsize(form)
        value = rng.choice([0, 1, top - 1, top // 2, top // 2 - 1, rng.randrange(top), min(top - 1, 1 << 28)])
        return data[:at] + struct.pack(form, value) + data[at + struct.calcsize(form) :]
    end = min(size, at + rng.randint(1, 200))
    if kind == 4:
        return data[:at] + data[end:]
    if kind == 5:
        return data[:end] + data[at:end] * rng.choice([1, 2, 100]) + data[end:]
    return data[:at] + bytes(end - at) + data[end:]
