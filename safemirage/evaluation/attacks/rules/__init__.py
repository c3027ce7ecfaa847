"""Rewrites of English questions by rules: the parts of a question, and the patterns that they are put into."""
