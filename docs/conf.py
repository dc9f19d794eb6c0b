"""Sphinx's settings: `python -m sphinx -W docs build/docs` makes the pages. They load nothing from elsewhere."""

from importlib.metadata import version as version_of

project = "jlstm"
author = "the authors of jlstm"
version = release = version_of("jlstm")

extensions = [
    "myst_parser",  # the pages are Markdown, as they are read in a checkout
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["**.ipynb_checkpoints"]
myst_heading_anchors = 4  # so that [text](page.md#a-heading) is checked
suppress_warnings = ["myst.header"]  # the measured pages go from # to ###
highlight_language = "text"  # commands and grammars; Python is marked as such, and doctests are recognised
smartquotes = False  # quotes in docstrings are those of code
default_role = "code"  # single backticks in docstrings

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say shapes and dtypes, which the types cannot
napoleon_numpy_docstring = False
napoleon_use_rtype = False
maximum_signature_line_length = 70
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "furo"
pygments_dark_style = "github-dark"  # furo's own underlines the names of modules
html_title = "jlstm"
html_static_path = ["_static"]
html_css_files = ["extra.css"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}


def _without_blank_ends(app, name, source):
    """A doctest needs an empty line before the fence that closes its block; a page does not show it."""
    source[0] = source[0].replace("\n\n```\n", "\n```\n")


def setup(app):
    app.connect("source-read", _without_blank_ends)
