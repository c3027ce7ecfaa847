"""Rates as text, tables and pages. Nothing here computes a rate.

`terminal.py` prints, `report.py` and `comparison.py` write files, `tables` holds their grids, and `format.py` how one
number is spelt.
"""
