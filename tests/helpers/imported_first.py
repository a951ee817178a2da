"""Run as a program: each module that stdin names is imported in a process that has imported nothing of its package."""

import json
import os
import sys
import traceback

# What most modules import is imported once, before the processes part: it would take most of the time.
import pyarrow.parquet  # noqa: F401
import pydantic  # noqa: F401
import sklearn.linear_model  # noqa: F401
import torchvision  # noqa: F401
import typer  # noqa: F401


def reason(module: str) -> str:
    """Why a module cannot be the first, or the empty string."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            __import__(module)
            os._exit(0)
        except BaseException as error:
            os.write(writes, "".join(traceback.format_exception(error)).encode()[-2000:])
            os._exit(1)
    os.close(writes)
    with os.fdopen(reads, encoding="utf-8", errors="replace") as said:
        text = said.read()
    return "" if os.waitpid(child, 0)[1] == 0 else text or "killed"


if __name__ == "__main__":
    names = json.load(sys.stdin)
    assert not {name.partition(".")[0] for name in names} & sys.modules.keys()
    json.dump({name: why for name in names if (why := reason(name))}, sys.stdout)
