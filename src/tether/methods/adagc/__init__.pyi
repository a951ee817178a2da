from .clipper import AdaGC as AdaGC
