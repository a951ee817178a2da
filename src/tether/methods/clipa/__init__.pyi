from .shorten import Shortened as Shortened
from .shorten import shorten as shorten
