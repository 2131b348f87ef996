"""How much code there is, without blank lines, comments and docstrings; exit code 1 where it is more than it may be.

python tools/codelines.py           the limits below
python tools/codelines.py FOLDER    one line for every file of a folder
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMITS = {"core": 7_000, "core and plugins": 23_000}
SPACE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(file: Path) -> int:
    """Lines of a file that hold code: a token that is no comment, outside of docstrings."""
    text = file.read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = {line for t in tokens if t.type not in SPACE for line in range(t.start[0], t.end[0] + 1)}
    return len(code.difference(*docstrings(ast.parse(text))))


def docstrings(tree: ast.Module) -> Iterator[range]:
    """The lines of every docstring."""
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if documented and ast.get_docstring(node, clean=False) is not None:
            yield range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)


def files(*folders: str) -> list[Path]:
    """Python files of the product. Tests are not counted, nor stubs, which only repeat names."""
    found = (f for folder in folders for f in sorted((ROOT / folder).rglob("*.py")))
    return [f for f in found if "tests" not in f.relative_to(ROOT).parts]


def total(several: Iterable[Path]) -> int:
    return sum(map(code_lines, several))


def main(folders: list[str]) -> int:
    for file in files(*folders):
        print(f"{code_lines(file):6,}  {file.relative_to(ROOT)}")
    if folders:
        print(f"{total(files(*folders)):6,}  in all")
        return 0
    counted = {"core": total(files("core")), "core and plugins": total(files("core", "plugins"))}
    for name, count in counted.items():
        print(f"{count:6,} code lines in {name}, of at most {LIMITS[name]:,}")
    return int(any(count > LIMITS[name] for name, count in counted.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
