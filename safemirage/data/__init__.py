"""Data: readers of VLGuard and LLaVA files, the forget / retain pipeline, and the model-free audit. Imports no torch."""
