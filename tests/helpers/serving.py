"""Servers for tests: images, a store of hostile rows, and ``tether serve`` in a process of its own."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import urllib.request
import zlib

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from tether.core.model_digest import model_digest
from tether.tasks.retrieve.rows import DIGEST, MODEL
from tether.tasks.retrieve.store import Store

HOSTILE = "<img src=x onerror=alert(1)>' OR '1'='1"
TOKEN = "a-secret-of-many-letters"


def image_bytes(colour=(200, 30, 30), *, size=(64, 48), kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def headed(width, height):
    """A PNG that says it is so large, and has no pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b""))]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def data_uri(data=None):
    return "data:image/png;base64," + base64.b64encode(image_bytes() if data is None else data).decode()


def make_store(path, model):
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (12, 3))
    images = [image_bytes(tuple(map(int, colour)), kind="JPEG") for colour in colours]
    pixels = torch.stack(
        [torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, 32, 32) for colour in colours]
    )
    vectors = torch.nn.functional.normalize(model.encode_image(pixels).pooled.detach(), dim=1).numpy()
    schema = pa.schema(
        [
            pa.field("key", pa.string()),
            pa.field("embedding", pa.list_(pa.float32(), 64)),
            pa.field("texts", pa.list_(pa.string())),
            pa.field("label", pa.string()),
            pa.field("my year", pa.int64()),
            pa.field("size", pa.float32()),
            pa.field("good", pa.bool_()),
            pa.field("when", pa.date32()),
            pa.field("thumbnail", pa.binary()),
        ],
        metadata={MODEL: b"tiny", DIGEST: model_digest(model).encode()},
    )
    rows = pa.table(
        {
            "key": [f"row {i}/ä?.jpg" for i in range(11)] + ["../../etc/passwd"],
            "embedding": list(vectors),
            "texts": [[HOSTILE if i == 0 else f"text {i}"] for i in range(12)],
            "label": [HOSTILE if i == 0 else ("cat", "50%_dog")[i % 2] for i in range(12)],
            "my year": [2000 + i for i in range(12)],
            "size": [i + 0.5 for i in range(12)],
            "good": [i % 3 == 0 for i in range(12)],
            "when": pa.array([19000 + i for i in range(12)], pa.date32()),
            "thumbnail": [*images[:10], b"<script>alert(1)</script>", None],
        },
        schema=schema,
    )
    return Store.create(path, schema=schema, rows=[rows])


class Server:
    """``tether serve``, of a model that is called ``starter``, on a free port."""

    def __init__(self, folder, *options, port="0", model="tiny"):
        self.log = folder / "log.txt"
        command = [
            sys.executable,
            "-m",
            "tether",
            "serve",
            model,
            "--name",
            "starter",
            "--random-weights",
            "--port",
            port,
            *options,
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stderr=log, stdout=log, env={**os.environ, "TETHER_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
            )
        found = None
        for _ in range(1200):
            if (found := re.search(r"at http://127\.0\.0\.1:(\d+)/", self.said())) or self.process.poll() is not None:
                break
            threading.Event().wait(0.1)
        assert found, self.said()
        self.port = int(found[1])

    def said(self):
        return self.log.read_text(encoding="utf-8")

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    def get(self, path):
        """What the path answers, with the token."""
        asked = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.read().decode()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)
