"""Images made and steered: canvases painted towards goals, makers from texts, what leads them, edits, and noise."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
