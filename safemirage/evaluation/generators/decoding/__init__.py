"""How answers are decoded in this process: prompts, batches, random seeds, and turns at the model."""
