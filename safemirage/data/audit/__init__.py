"""The model-free audit: how far the words of a question give its safety label away."""
