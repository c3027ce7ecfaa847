"""Attacks: suites made out of suites, by rewriting how their questions start."""
