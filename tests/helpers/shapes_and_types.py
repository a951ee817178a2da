"""What looks at shapes and types while the golden tests run: beartype, which takes a whole number for a float."""

from beartype import BeartypeConf, beartype

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
