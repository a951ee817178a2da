"""One process of a training run under torchrun: folder, then overrides.

With STOP_AFTER in the environment the last process alone is asked to stop after so many steps; if the run is there, it
goes on.
"""

import contextlib
import os
import sys
from pathlib import Path

from tether.core.errors import StoppedError
from tether.train import load_config, train

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    last = int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1
    stop_after = int(os.environ.get("STOP_AFTER", "0"))
    asked = []

    def should_stop() -> bool:
        asked.append(None)
        return last and len(asked) == stop_after

    with contextlib.suppress(StoppedError):
        train(load_config(overrides=sys.argv[2:]), folder=folder, resume=folder.exists(), should_stop=should_stop)
