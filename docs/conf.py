"""Sphinx: the manual, and the reference from the docstrings."""

import pmemheap

project = "pmemheap"
author = "pmemheap authors"
version = release = pmemheap.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"pmemheap {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = False
default_role = "code"
myst_heading_anchors = 3
