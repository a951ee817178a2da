"""One process of a training run under torchrun: folder, then overrides."""

import sys
from pathlib import Path

from tether.train import load_config, train

if __name__ == "__main__":
    train(load_config(overrides=sys.argv[2:]), folder=Path(sys.argv[1]))
