"""Clippers: what bounds the gradients between the backward pass and the optimiser's step.

Each works in anyone's loop::

    clipper = ZClip()
    loss.backward()
    report = clipper.clip_(model.named_parameters(), step=step)
    if not report.skip:
        optimizer.step()
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
