from .registry import PRUNERS as PRUNERS
