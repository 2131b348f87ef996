"""The deprecation rule: what was renamed keeps its old name for one minor version, with a warning.

A `Renamed` stands where the new name is: in the class variable `renamed` of a model for its fields and its kind, in
`mho.RENAMED` for public names. When the version that drops the old name is reached, a test fails until the entry is gone.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.version import Version


@dataclass(frozen=True)
class Renamed:
    """`old` is called `new` since version `since` of its distribution, e.g. "0.2". An old name with a dot is a kind."""

    old: str
    new: str
    since: str

    @property
    def until(self) -> str:
        """The version that drops the old name: the next minor one.

        >>> Renamed("nu_sd", "nu_std", since="0.2").until
        '0.3'
        """
        since = Version(self.since)
        return f"{since.major}.{since.minor + 1}"

    def warn(self) -> None:
        """Say, in a `FutureWarning`, what the old name is called and when it goes away."""
        text = f"{self.old!r} is called {self.new!r} since version {self.since}; the old name goes away in {self.until}"
        warnings.warn(text, FutureWarning, stacklevel=4)

    def overdue(self, version: str) -> bool:
        """Whether the old name should be gone in this version."""
        return Version(version) >= Version(self.until)


def present(name: str, renamed: Iterable[Renamed]) -> str:
    """Today's name of what may be written by its old one, which then warns."""
    for change in renamed:
        if change.old == name:
            change.warn()
            return change.new
    return name
