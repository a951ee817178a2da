from .convert import load_alpha_clip_ as load_alpha_clip_
from .recipe import RegionsRecipe as RegionsRecipe
from .recipe import RegionStep as RegionStep
from .region_questions import RegionAnswers as RegionAnswers
from .region_questions import ask_regions as ask_regions
