"""The HTTP interface: routes, schemas, authentication, limits. Imports neither ray nor torch."""
