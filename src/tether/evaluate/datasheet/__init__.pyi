from .write import write_datasheet as write_datasheet
