"""One description of a transformer tower for every encoder; start at ``find.anatomy_of``."""
