"""LLaVA-NeXT (1.6): an image as one overview and a grid of tiles, rows closed by a learned newline.

Its public processors bring their own template; the one here is that of the Vicuna members.
"""

from dataclasses import replace

from safemirage.models.families.llava import LLAVA

LLAVA_NEXT = replace(
    LLAVA,
    name="llava_next",
    hub_prefixes=(("model.image_newline", "image_newline"), *LLAVA.hub_prefixes),
    takes_square_images=False,
)
