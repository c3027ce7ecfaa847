"""Pure functions of text: first words, refusals, degenerate answers, characters. Imports nothing else of ours."""
