"""Suites: where the questions come from. A module a source; `sampling` draws from them."""
