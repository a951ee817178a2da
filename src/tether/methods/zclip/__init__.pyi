from .clipper import ZClip as ZClip
