"""Hostile files are opened in a process that may die; the drivers of scripts/robustness, in small, find nothing."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tether.core import guarded as module
from tether.core.errors import InputError
from tether.core.guarded import guarded

pytestmark = pytest.mark.slow


def pdf(depth, times):
    """A page whose form draws a form so many times, which draws another so many times, and so on."""
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 4 0 R/Resources<</XObject<</F 5 0 R>>>>>>",
        b"<</Length 5>>stream\n/F Do\nendstream",
    ]
    for level in range(depth):
        body = b"/F Do " * times if level < depth - 1 else b"0 0 10 10 re f"
        inner = b"/Resources<</XObject<</F %d 0 R>>>>" % (level + 6)
        head = b"/Type/XObject/Subtype/Form/BBox[0 0 99 99]" + (inner if level < depth - 1 else b"")
        objects.append(b"<<%b/Length %d>>stream\n%b\nendstream" % (head, len(body), body))
    data = b"%PDF-1.4\n" + b"".join(b"%d 0 obj\n%b\nendobj\n" % (n, o) for n, o in enumerate(objects, start=1))
    return data + b"trailer<</Size %d/Root 1 0 R>>\n%%%%EOF" % (len(objects) + 1)


def test_a_pdf_that_takes_too_long_is_refused_and_the_next_is_read():
    assert guarded("first_page", data=pdf(3, 2), size=50)[0] == {"shape": [50, 50, 3]}
    with pytest.raises(InputError, match=r"takes more than 0\.5 s"):
        guarded("first_page", data=pdf(12, 4), size=50, seconds=0.5)
    assert len(guarded("first_page", data=pdf(3, 2), size=50)[1]) == 7500


def test_a_process_that_dies_is_replaced():
    guarded("begin")
    process = module._WORKERS[0]._process
    process.terminate()
    process.wait()
    assert guarded("begin") == ({}, b"")
    stop = threading.Timer(0.5, module._WORKERS[0]._process.terminate)
    stop.start()
    with pytest.raises(InputError, match="crashes the program that reads it"):
        guarded("first_page", data=pdf(12, 4), size=50)
    assert guarded("begin") == ({}, b"")
    assert module._WORKERS[0].owner == os.getpid()


READERS = ["model, own", "PNG RGB", "JPEG RGB", "folder of images", "Parquet", "tar", "recipe", "checkpoint", "store"]
SCRIPTS = Path(__file__).parents[3] / "scripts" / "robustness"


@pytest.mark.parametrize(
    "words",
    [
        ["mutations.py", "--inputs", "8", "--seed", "1", "--reader", *READERS],
        ["bombs.py", "--only", "pipe"],
        pytest.param(["mutations.py", "--inputs", "1000", "--seed", "2"], marks=pytest.mark.nightly),
        pytest.param(["kills.py", "--kills", "3", "--verb", "curate", "index new"], marks=pytest.mark.nightly),
        pytest.param(["two_writers.py", "--rounds", "3"], marks=pytest.mark.nightly),
        pytest.param(["bombs.py"], marks=pytest.mark.nightly),
    ],
    ids=" ".join,
)
def test_driver_finds_nothing(words: list[str]) -> None:
    command = [sys.executable, str(SCRIPTS / words[0]), *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
