"""What is raised for a setting that can not be, by every module that reads some."""


class SettingsError(Exception):
    """The sidecar can not start like this; the message names the setting and the remedy."""
