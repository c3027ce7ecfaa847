"""Evaluations that the service takes up, and how it shows them."""
