"""Forget and retain files, and the harmful answers that they are made of.

Begin with `pipeline.py`, which writes the files; `harmful_answers.py` asks models for the answers.
"""
