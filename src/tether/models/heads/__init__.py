"""Modules beside an encoder that give boxes, masks, defects or a ranking."""
