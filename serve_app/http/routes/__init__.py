"""The routes of the HTTP interface, one module a resource; `../api.py` includes them."""
