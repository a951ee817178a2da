"""Other libraries' log lines, held back where an error or a result of ours says the same."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator


@contextlib.contextmanager
def quiet_logging(level: int = logging.WARNING) -> Generator[None]:
    """Inside, no log line of ``level`` or below appears, whoever writes it."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(before)
