"""Strict YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from mho.config.yamltext import parse, plain_scalar, read, write
from mho.ground.errors import ConfigError, MhoError


def data(text: str | bytes) -> Any:
    return parse(text, "hw.yaml").data


def said(text: str | bytes) -> list[tuple[int, int, str, str]]:
    """(line, column, path, message) of every problem, counted from 1."""
    with pytest.raises(ConfigError) as error:
        parse(text, "hw.yaml")
    return [(p.mark.line + 1, p.mark.column + 1, p.path, p.message) for p in error.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("25e-6", 25e-6),
        ("0.5e1", 5.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-7", -7),
        ("+7", 7),
        ("0", 0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_core_scalars_have_their_meaning(text: str, value: object) -> None:
    result = data(f"a: {text}")["a"]
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "no",
        "on",
        "off",
        "012",
        "0o14",
        "0x1F",
        "1_000",
        "1:30",
        "2020-01-01",
        ".inf",
        ".nan",
        "=",
        "<<",
        "1e",
        "-"[:0] + "none",
    ],
)
def test_everything_else_stays_text(text: str) -> None:
    assert data(f"a: {text}") == {"a": text}


def test_quoted_scalars_are_text() -> None:
    assert data("a: '1'\nb: \"true\"\nc: |\n  x\n") == {"a": "1", "b": "true", "c": "x\n"}


def test_lists_become_tuples() -> None:
    assert data("a: [1, [2]]\nb:\n- x\n") == {"a": (1, (2,)), "b": ("x",)}


def test_all_duplicate_keys_are_reported_at_once() -> None:
    assert said("a: 1\nb: {c: 1, c: 2}\na: 2\n") == [
        (2, 11, "b.c", "key 'c' appears twice (first on line 2); keep one"),
        (3, 1, "a", "key 'a' appears twice (first on line 1); keep one"),
    ]


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a: !!python/object:os.system x", (1, 4), "tags (tag:yaml.org,2002:python/object:os.system) are not used"),
        ("a: !mine x", (1, 4), "tags (!mine) are not used"),
        ("a: &x 1", (1, 4), "anchors (&x) are not used"),
        ("b: *x", (1, 4), "aliases (*x) are not used"),
        ("<<: {a: 1}", (1, 1), "merge keys (<<) are not used"),
        ("1: a", (1, 1), 'a key must be text; write "1" in quotes'),
        ("true: a", (1, 1), "a key must be text"),
        ("? [a]\n: 1", (1, 3), "a key must be text, not a list or mapping"),
        ("a: 1\n---\nb: 2", (2, 1), "a second document starts here"),
        ("%YAML 1.1\n---\na: 1", (1, 1), "YAML directives"),
        ("a:\n\t- b", (2, 1), "a tab in the indentation; use spaces"),
        ("a: \x01", (1, 4), "character U+0001 is not allowed"),
        ('a: "\\0"', (1, 4), "character U+0000 is not allowed, not even escaped"),
        ('a: "\\ud800"', (1, 4), "character U+D800 is not allowed"),
        ('a: "\\U00110000"', (1, 7), "not YAML"),
        ("a: [1,", (1, 7), "not YAML"),
        ("a: b: c", (1, 5), "not YAML: mapping values are not allowed here"),
        (b"a: 1\nb: \xff", (2, 4), "this is not UTF-8 text"),
    ],
)
def test_what_hides_surprises_is_an_error_with_a_place(text: str | bytes, place: tuple[int, int], message: str) -> None:
    line, column, _, first = said(text)[0]
    assert (line, column) == place
    assert first.startswith(message)


@pytest.mark.parametrize("text", ["[" * 10_000, "{a: " * 10_000, "- " * 10_000, "? " * 10_000, "[" * 10_000 + "]" * 10_000])
def test_ten_thousand_levels_end_in_a_clean_error(text: str) -> None:
    ((line, _, _, message),) = said(text)
    assert (line, message) == (1, "nested more than 64 levels deep")


def test_sixty_four_levels_are_fine() -> None:
    assert data("[" * 64 + "]" * 64) != ()


def test_a_file_of_more_than_a_mebibyte_is_refused() -> None:
    assert said("#" * (2**18 + 1))[0][3] == "the file is larger than 256 KiB"


def test_an_error_shows_the_line_and_a_caret() -> None:
    with pytest.raises(ConfigError) as error:
        parse("ok: 1\nbad: {x: 1, x: 2}\n", "hw.yaml")
    assert str(error.value) == (
        "hw.yaml:2:13  bad.x\n"
        "    key 'x' appears twice (first on line 2); keep one\n"
        "       2 | bad: {x: 1, x: 2}\n"
        "         |             ^"
    )


def test_a_byte_order_mark_is_ignored() -> None:
    assert data(b"\xef\xbb\xbfa: 1") == {"a": 1}


def test_marks_point_at_values_of_scalars_and_at_keys_of_collections() -> None:
    tree = parse("a:\n  b: 7\n  c: {d: 1}\n", "hw.yaml")
    assert str(tree.mark_of(("a", "b"))) == "hw.yaml:2:6"
    assert str(tree.mark_of(("a", "b"), of_key=True)) == "hw.yaml:2:3"
    assert str(tree.mark_of(("a", "c"))) == "hw.yaml:3:3"
    assert str(tree.mark_of(("a", "missing"))) == "hw.yaml:1:1"


@given(st.binary(max_size=200))
def test_any_bytes_are_yaml_or_a_located_error(raw: bytes) -> None:
    try:
        parse(raw, "hw.yaml")
    except ConfigError as error:
        assert error.problems


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MhoError, match=r"cannot read .*: Is a directory"):
        read(tmp_path)


scalars = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(min_codepoint=32, max_codepoint=0x2000, exclude_categories=("Cc", "Cs")), max_size=12)
words = texts.filter(lambda t: plain_scalar(t) is not None)
trees = st.recursive(
    scalars | words,
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(trees)
def test_what_is_written_reads_back_equal(tree: Any) -> None:
    again = parse(write({"k": tree}), "x").data["k"]
    assert again == _with_none_as_text(tree)


def _with_none_as_text(tree: Any) -> Any:
    """None is written as the word `none`, which a schema turns back into None."""
    if isinstance(tree, dict):
        return {k: _with_none_as_text(v) for k, v in tree.items()}
    if isinstance(tree, tuple):
        return tuple(map(_with_none_as_text, tree))
    return "none" if tree is None else tree
