"""The contract of columns of sweeps: a number with its unit and band, the same for the same hardware, and clear refusals."""

import json
import math
import re
from collections.abc import Callable
from typing import Any, ClassVar

from mho.config import Hardware
from mho.ground import MhoError
from mho_kit.checks.base import Checks, under_two_seeds

NONSENSE = "no_such_text_2f9c"


class ColumnContract(Checks):
    """Everything a column promises to `mho sweep --column NAME:TEXT`, as named checks.

        class TestTiles(ColumnContract):
            name, column = "tiles", tiles

    The author declares `column`, the function of the hook `mho_columns`, its `name`, and where they matter the `text` behind the
    colon, the `task` it is tried with, the YAML of a `tile`, and `expected_failed_checks`. Checked are that it gives a finite
    value with its unit and a band around it, the same again, as plain data, and that it refuses a text that it cannot read.
    `mho test` takes the text from the attribute `example` of the function.
    """

    column: ClassVar[Callable[[str, Hardware, str], Any]]
    name: ClassVar[str]
    text: ClassVar[str] = ""
    task: ClassVar[str] = "digits"

    def _found(self, text: str | None = None) -> dict[str, Any]:
        hw = self.bench.hardware(tile={"adc": {"bits": 8, "bound": 10.0}, **self.bench.changes})
        return dict(type(self).column(self.task, hw, self.text if text is None else text))

    # -- checks -----------------------------------------------------------------------------------------------
    def test_documents_itself(self) -> None:
        assert (type(self).column.__doc__ or "").strip(), "it needs a docstring: what of, and in which unit"

    def test_its_name_fits_a_command_line(self) -> None:
        assert re.fullmatch(r"[A-Za-z][\w.-]*", self.name), f"{self.name!r}: expected letters, digits, _, . and -, for NAME:TEXT"

    def test_gives_a_finite_value(self) -> None:
        found = self._found()
        strange = found.keys() - {"value", "low", "high", "unit"}
        assert "value" in found and not strange, f"it gives {', '.join(found)}; expected value, and low, high, unit"
        for key in found.keys() - {"unit"}:
            value = found[key]
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            assert number, f"{key} is {value!r}; expected a finite number of Python's own: float(...)"

    def test_says_its_unit(self) -> None:
        unit = self._found().get("unit")
        assert isinstance(unit, str) and unit.strip(), f"its unit is {unit!r}; expected a text such as 'nJ', or '1' for a ratio"

    def test_its_band_holds_the_value(self) -> None:
        found = {"low": -math.inf, "high": math.inf, **self._found()}
        low, value, high = (found[k] for k in ("low", "value", "high"))
        assert low <= value <= high, f"{value:g} does not lie between low, {low:g}, and high, {high:g}"

    def test_gives_the_same_again(self) -> None:
        a, b = under_two_seeds(lambda: json.dumps(self._found()))
        assert a == b, f"the same hardware gives {a} and {b}; depend on nothing but task, hardware and text"

    def test_refuses_a_text_that_it_cannot_read(self) -> None:
        try:
            self._found(NONSENSE)
        except MhoError as error:
            assert NONSENSE in str(error), f"the message {str(error)!r} does not say which text is wrong"
        except Exception as error:
            raise AssertionError(
                f"text {NONSENSE!r} raises {type(error).__name__}: {error}; raise MhoError, and say why"
            ) from error
