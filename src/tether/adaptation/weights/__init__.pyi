from .interpolate import interpolate as interpolate
