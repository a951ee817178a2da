from .report import Estimate as Estimate
from .report import FindingReport as FindingReport
from .report import MultilabelReport as MultilabelReport
from .report import choose_thresholds as choose_thresholds
from .report import multilabel_report as multilabel_report
