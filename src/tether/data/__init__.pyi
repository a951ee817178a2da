from .opening import SOURCES as SOURCES
from .opening import open_source as open_source
