"""The signatures by which long work says how far it is."""

from collections.abc import Callable

OnProgress = Callable[[int, int], None]
"""Called with how much is done and how much it is."""
OnNamedProgress = Callable[[str, int, int], None]
"""Called with what is under way, how much of it is done and how much it is."""
