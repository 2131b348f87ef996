"""How Sphinx builds these pages: `make docs`. Nothing is fetched, neither by the build nor by the built pages."""

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "mho"
author = "the mho authors"
copyright = author
version = release = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "generate_reference"]
exclude_patterns = ["_build", "data"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 110
toc_object_entries_show_parents = "hide"

suppress_warnings = ["toc.not_readable"]  # index.md keeps places for pages that other changes bring

html_theme = "furo"
html_title = f"mho {version}"
html_static_path = ["_static"]
html_css_files = ["mho.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": False}
