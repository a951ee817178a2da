"""Can Machines Help Us Answering Question 16 in Datasheets, and In Turn Reflecting on Inappropriate Content?"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
