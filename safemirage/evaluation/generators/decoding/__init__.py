"""How answers are decoded in this process: prompts, batches, and random seeds.

`shared_prefix.py` is the decoder for most families, with its cache in `slots.py`; `padding.py` serves the others.
`../transformers.py` and `../vllm.py` use them.
"""
