"""The HTTP interface: routes, schemas, authentication, limits. Imports neither ray nor torch.

Begin with `api.py`, which puts the application together, and `schemas.py`, what callers send.
"""
