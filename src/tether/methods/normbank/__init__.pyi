from .prompts import NormPrompts as NormPrompts
