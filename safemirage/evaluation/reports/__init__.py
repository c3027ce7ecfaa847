"""Rates as text, tables and pages. Nothing here computes a rate."""
