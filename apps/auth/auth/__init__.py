"""auth: registration, login and token validation."""

from auth.app import create_app
from auth.version import __version__

__all__ = ["__version__", "create_app"]
