"""Attacks: suites made out of suites, by rewriting how their questions start.

Begin with `first_words.py`, which makes a suite of rewrites; the rewrites come from `rules` or from a model.
`word_search.py` looks for the word that opens a model widest.
"""
