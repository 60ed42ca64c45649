"""What Belvedere's services share; each module is named for what it knows."""

__version__ = "1.0.0"
