"""MOO-Clip: differentially private federated learning whose clipping norm is one of the objectives."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
