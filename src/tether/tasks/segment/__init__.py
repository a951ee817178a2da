"""Where in the image is it: masks from words.

``SEGMENTERS`` give every pixel of images of any size a class. ``SEGMENTER_HEADS`` has ``parts``, which takes images of
the model's size: it finds the foreground, the patches that speak for the image's class.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
