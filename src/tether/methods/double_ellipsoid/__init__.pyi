from .ellipsoid import GapSweep as GapSweep
from .ellipsoid import ShellStats as ShellStats
from .ellipsoid import gap_sweep as gap_sweep
from .ellipsoid import shell_stats as shell_stats
from .ellipsoid import vslerp as vslerp
