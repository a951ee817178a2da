from .recipe import AnomalyPromptsRecipe as AnomalyPromptsRecipe
