"""Training: one loop behind the Engine seam; knows tensors and a `report` callable, and no Ray."""
