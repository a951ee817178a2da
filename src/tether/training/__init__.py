"""When, in what order and on what hardware: the loop, checkpoints, schedules and a run's configuration."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
