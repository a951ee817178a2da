"""What is shown, as words or codes, and back into images; ``generate.invert(...)`` is ``invert.implicit.invert``."""

from tether.core.callable_module import make_callable

make_callable(__name__, "tether.generation.inversion.implicit:invert")
