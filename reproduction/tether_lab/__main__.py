"""``python -m tether_lab`` is ``tether-lab``."""

from tether_lab.cli import main

if __name__ == "__main__":
    main()
