"""How a trained model is bent to a case: fine-tuning, averages of weights, corrections of what it learnt wrongly."""
