"""Vision-language models: what differs between families, prompts, loading, and exports with their manifests.

Begin with `loading.py` and `prompts.py`, which training and evaluation share; `export.py` writes what they read.
"""
