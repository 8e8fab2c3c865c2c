"""The errors a person can mend. This file imports nothing, so that the command line starts quickly."""


class PalateError(Exception):
    """Something the user can mend. The message is one line: what is wrong, where, and how to mend it."""


class DataError(PalateError):
    """Bad input data: names file, row and column."""


class ConfigError(PalateError):
    """A bad setting: names the key, and the nearest key where it looks like a typing mistake."""


class SplitError(PalateError):
    """A split that would leak the future, or leave nothing to learn or to test from."""


class BundleError(PalateError):
    """A bundle or checkpoint that is damaged, foreign, or written by a newer Palate."""


class LearnError(PalateError):
    """Learning from feedback cannot be done as things stand."""


class StoreError(PalateError):
    """The event store cannot do what was asked. passing: the same call may succeed later (full, locked, gone for a while).

    brief: what strangers may be told, which is not where the store lies.
    """

    def __init__(self, message: str, *, passing: bool = False, brief: str = "cannot do this now") -> None:
        super().__init__(message)
        self.passing, self.brief = passing, brief
