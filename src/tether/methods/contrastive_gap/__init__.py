"""It's Not a Modality Gap: Characterizing and Addressing the Contrastive Gap."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
