"""VLGuard's real files and small JSON files, as in the tests of data."""

from tests.data.conftest import vlguard

__all__ = ["vlguard"]
