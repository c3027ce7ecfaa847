"""Probes: how deep does unlearning go? The export is changed in some way, and measured as any model is."""
