"""api: users and their items."""

from api.app import create_app
from api.version import __version__

__all__ = ["__version__", "create_app"]
