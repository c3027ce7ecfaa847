"""The tables of a report, one module each, as grids of text for every format."""
