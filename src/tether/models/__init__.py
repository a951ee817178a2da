"""What sees and reads: two transformer towers, and every way to get a model in and out.

``models.create`` makes one, ``tether.load`` reads one, ``models.embed`` applies one.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
