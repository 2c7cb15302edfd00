"""The whole error tree: catch `SteerecError` for all of it, a subclass to act differently."""


class SteerecError(Exception):
    """Anything steerec raises on purpose; the message says what to do."""


class ConfigError(SteerecError):
    """A setting is unknown, out of range, or contradicts another."""


class DataError(SteerecError):
    """Data given to us cannot be read or used as it is."""


class TrainingError(SteerecError):
    """A head was lost in training: its loss is no number, or memory ran out; others go on."""


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


class StorageError(SteerecError):
    """The store cannot read or write: disk full, database away, or of another version."""


class QueueFullError(SteerecError):
    """More is waiting to be written than the queue holds; nothing of this call was taken.

    Attributes:
        retry_after_s: seconds after which the queue is likely to have room.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServiceError(SteerecError):
    """A service refused a call, or did not answer it.

    Attributes:
        status: of the answer; None: there was none.
        detail: what was given, what was expected, what to do.
        instance: the id under which the service's logs speak of the call.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        detail: str = "",
        instance: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.detail, self.instance = status, detail, instance
