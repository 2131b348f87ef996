"""The README begins with what a newcomer needs."""

from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_two_commands_stand_at_the_top_of_the_readme():
    top = README[:1200]
    assert "make demo" in top and "make test" in top


@pytest.mark.parametrize("first", ["digital reference", "**Not modelled:**", "docs/tutorial.md"])
def test_what_comes_out_what_is_not_modelled_and_where_to_read_on_stand_before_the_details(first):
    assert README.index(first) < README.index("## In your own code")
