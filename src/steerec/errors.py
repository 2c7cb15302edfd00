"""The whole error tree: catch `SteerecError` for all of it, a subclass to act differently."""


class SteerecError(Exception):
    """Anything steerec raises on purpose; the message says what to do."""


class ConfigError(SteerecError):
    """A setting is unknown, out of range, or contradicts another."""


class DataError(SteerecError):
    """Data given to us cannot be read or used as it is."""


class UnknownItemError(SteerecError):
    """An item id that the catalogue does not hold."""


class SnapshotError(SteerecError):
    """A snapshot is missing, truncated, altered, or of another format version."""


class DownloadError(SteerecError):
    """A data set or model could not be fetched, or arrived with another checksum."""


class EncoderError(SteerecError):
    """An encoder could not be loaded, or its service did not answer."""


class MissingExtraError(SteerecError):
    """An optional package is needed; the message names the install command."""
