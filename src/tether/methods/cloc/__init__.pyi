from .phrase_regions import phrase_regions as phrase_regions
from .term import RegionTextTerm as RegionTextTerm
