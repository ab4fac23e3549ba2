"""The release, in one place: setup.cfg reads it here without importing the package."""

__version__ = "0.1.0"
