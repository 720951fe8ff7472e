"""Sphinx: the manual, and the reference from the docstrings."""

import re
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext import intersphinx

import pmemheap

ROOT = Path(__file__).parent.parent
REPOSITORY = "https://github.com/pmemheap/pmemheap"
# Pages that are a file of the repository, its links turned to pages here or to the repository.
INCLUDED = {
    "overview": "README.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "security": "SECURITY.md",
}

project = "pmemheap"
author = "pmemheap authors"
copyright = "2026, pmemheap authors"  # noqa: A001 -- that is what Sphinx calls it
version = release = pmemheap.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"pmemheap {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
}
copybutton_exclude = ".linenos, .gp, .go"  # neither prompts nor what is printed

default_role = "code"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = False
napoleon_preprocess_types = True
napoleon_type_aliases = {
    "array_like": ":py:data:`array_like <numpy.typing.ArrayLike>`",
    "buffer": ":py:class:`buffer <collections.abc.Buffer>`",
    "callable": ":py:class:`callable <collections.abc.Callable>`",
    "dtype": ":py:class:`dtype <numpy.dtype>`",
    "exception type": ":py:class:`exception type <type>`",
    "iterable": ":py:class:`iterable <collections.abc.Iterable>`",
    "key": ":py:class:`key <object>`",
    "mapping": ":py:class:`mapping <collections.abc.Mapping>`",
    "mutable sequence": ":py:class:`mutable sequence <collections.abc.MutableSequence>`",
    "path": ":py:class:`path <os.PathLike>`",
    "path-like": ":py:class:`path-like <os.PathLike>`",
    "scalar": ":py:class:`scalar <object>`",
    "sequence": ":py:class:`sequence <collections.abc.Sequence>`",
    "uint64": ":py:class:`uint64 <numpy.uint64>`",
}

# The names of others that the reference mentions, in text: a build needs no network.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", "inventories/python.inv"),
    "numpy": ("https://numpy.org/doc/stable", "inventories/numpy.inv"),
}
nitpicky = True
nitpick_ignore_regex = [
    # Variables of types; and what heaps hand over to objects that no caller makes.
    (r"py:.*", r"(.*\.)?~?(E|K|L|P|R|T|V)"),
    (r"py:.*", r".*\.(Handle|timing.Allocator)"),
    (r"py:.*", r"(.*\.)?(ArrayStore|BlockSpace|HasScratch|Layers|Offer|Options|RootStore)"),
    (r"py:.*", r"(.*\.)?TapeEvent"),
    (r"py:.*", r"pyarrow\..*"),  # an extra: no inventory of it is kept here
    (r"py:.*", r"collections\.abc\.Mapping\[str"),  # a default that Sphinx cannot read
    (r"py:.*", r"(pmemheap\.heap\.roots\.Guard|pmemheap\.native\.constants\.State)"),
]
SHORT = {"np.": "numpy.", "npt.": "numpy.typing.", "Path": "pathlib.Path"}


def link_from(target: str) -> str:
    """Return where a link of a file in the repository's root leads to from a page of the manual."""
    path, hash_, anchor = target.partition("#")
    if "://" in target or not path:
        return target
    if not (ROOT / path).exists():
        raise FileNotFoundError(f"{path}: a file of the repository expected, none found")
    pages = {file: f"{page}.md" for page, file in INCLUDED.items()}
    if path in pages or path.startswith("docs/"):
        return pages.get(path, path.removeprefix("docs/")) + hash_ + anchor
    return f"{REPOSITORY}/blob/main/{path}{hash_}{anchor}"


def include(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the file of the repository in place of a page of `INCLUDED`."""
    if page in INCLUDED:
        file = ROOT / INCLUDED[page]
        app.env.note_dependency(str(file))
        text = file.read_text(encoding="utf-8")
        source[0] = re.sub(r"\]\(([^)\s]+)\)", lambda link: f"]({link_from(link[1])})", text)


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Find what a name means: the one object here that ends with it, or one of others."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    for short, full in SHORT.items():
        if target.startswith(short):
            node["reftype"], node["reftarget"] = "obj", full + target.removeprefix(short)
            return intersphinx.resolve_reference_any_inventory(env, False, node, content)
    name = target.rpartition(".")[2]
    python = env.domains.python_domain
    kinds = {"class", "exception", "data", "type"}
    found = {
        full
        for full, entry in python.objects.items()
        if full.rpartition(".")[2] == name and entry.objtype in kinds and not entry.aliased
    }
    if len(found) > 1:  # of the same last name: the module that is named before it decides
        found = {full for full in found if full.endswith(f".{target}")}
    if len(found) != 1:
        return None
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", found.pop(), node, content)


def setup(app: Sphinx) -> None:
    """Tell Sphinx about `include` and `resolve`."""
    app.connect("source-read", include)
    app.connect("missing-reference", resolve)
