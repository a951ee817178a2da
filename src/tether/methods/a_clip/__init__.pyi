from .term import ByolTerm as ByolTerm
from .term import SimclrTerm as SimclrTerm
