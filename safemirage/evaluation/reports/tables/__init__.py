"""The tables of a report, one module each, as grids of text for every format.

`grid.py` is such a grid, and its Markdown and LaTeX; the others make one.
"""
