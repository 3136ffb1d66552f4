"""The settings of the sidecar: `read` makes one object of flags and variables, or says in one line what is wrong."""

from patio.settings.errors import SettingsError
from patio.settings.read import HONOURED, Settings, read_settings

__all__ = ["HONOURED", "Settings", "SettingsError", "read_settings"]
