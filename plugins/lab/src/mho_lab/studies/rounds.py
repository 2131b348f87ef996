"""Run many searches side by side: what all of them ask for is one round of items."""

from collections.abc import Callable, Generator, Hashable, Sequence
from typing import Any, TypeVar

from mho_lab.measure.statistics import Ask
from mho_lab.studies.subject import Item, Measure, Measurer, Value

Name = TypeVar("Name", bound=Hashable)
Margins = Callable[[Any, Ask, Value], Sequence[float]]


def search(
    searches: dict[Name, Generator[Ask, Sequence[float], Any]],
    item: Callable[[Any, Ask], Item],
    margins: Margins,
    measure: Measure,
    measured: Measurer,
) -> dict[Name, Any]:
    """The results of all searches, by name: `item(name, ask)` says what to measure, `margins(name, ask, value)` reads it."""
    found: dict[Name, Any] = {}
    open_asks = {name: next(s) for name, s in searches.items()}
    while open_asks:
        values = measured([item(n, ask) for n, ask in open_asks.items()], measure)
        answers = {n: margins(n, ask, v) for (n, ask), v in zip(open_asks.items(), values)}
        open_asks = {}
        for name, answer in answers.items():
            try:
                open_asks[name] = searches[name].send(answer)
            except StopIteration as end:
                found[name] = end.value
    return {name: found[name] for name in searches}


def one_after_the_other(items: list[Item], measure: Measure) -> list[Value]:
    """The plainest measurer: in this process, nothing kept."""
    return [measure(i) for i in items]
