"""How a trained model is adapted to a case: recipes, fine-tuning, averages, mending what it learnt wrongly."""
