"""Forget and retain files, and the harmful answers that they are made of."""
