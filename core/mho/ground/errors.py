"""What mho says when the user's input is wrong: short, located, without a traceback."""

from collections.abc import Iterable
from dataclasses import dataclass


class MhoError(Exception):
    """A mistake in the user's input. The command line prints it without a traceback and exits with 1."""


class PluginError(MhoError):
    """A plugin is missing, broken or in conflict; the message names it and says why."""


@dataclass(frozen=True)
class Source:
    """A text that configuration was read from: a file, or one `--set` option (which has no lines to show)."""

    name: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mark:
    """A place in a source; line and column count from 0, as the parser does."""

    source: Source
    line: int
    column: int

    def __str__(self) -> str:
        if not self.source.lines:
            return self.source.name
        return f"{self.source.name}:{self.line + 1}:{self.column + 1}"

    def excerpt(self) -> str:
        """The source line with a caret under the column; empty where there is no such line."""
        if self.line >= len(self.source.lines):
            return ""
        text, column = self.source.lines[self.line], self.column
        if column > 100:  # a very long line: show the neighbourhood only
            text, column = "…" + text[column - 40 :], 41
        text = text if len(text) <= 160 else text[:160] + "…"
        # A tab counts as one column, so print it as one.
        return f"    {self.line + 1:>4} | {text.expandtabs(1)}\n         | {' ' * column}^"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, in which field, and what was expected."""

    mark: Mark
    path: str
    message: str
    rule: bool = False  # about values that are each fine, but not together or not here

    def __str__(self) -> str:
        head = f"{self.mark}  {self.path}".rstrip()
        return "\n".join(part for part in (head, f"    {self.message}", self.mark.excerpt()) if part)


class ConfigError(MhoError):
    """Everything that is wrong with a configuration: located problems sorted by position, or one sentence."""

    def __init__(self, problems: Iterable[Problem] | str) -> None:
        given = () if isinstance(problems, str) else dict.fromkeys(problems)
        self.problems = sorted(given, key=lambda p: (p.mark.source.name, p.mark.line, p.mark.column))
        super().__init__(problems if isinstance(problems, str) else "\n".join(map(str, self.problems)))
