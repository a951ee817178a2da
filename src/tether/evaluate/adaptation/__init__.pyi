from .figures import Compared as Compared
from .figures import Interval as Interval
from .figures import class_figures as class_figures
from .figures import recall_figure as recall_figure
from .measures import Measure as Measure
from .measures import Pictured as Pictured
from .registry import MEASURES as MEASURES
from .report import AdaptReport as AdaptReport
