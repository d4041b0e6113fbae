"""Settings of the site that `make docs` builds from the pages of the repository (docs/decisions/0032-docs-site.md)."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "extensions"))

project = "Flowloom"
author = "The Flowloom authors"
version = release = importlib.metadata.version("flowloom")

# the sources are the repository, so that relative links mean the same on the site and where the repository is browsed
root_doc = "docs/index"
include_patterns = ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**", "tests/corpus/README.md"]
exclude_patterns = [".*", "build", "dist", "demo-output", "docs/engines", "**/.ipynb_checkpoints"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generated_text"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_output_stderr = "remove"  # notices of libraries; an exception stops the build

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 90
python_use_unqualified_type_names = True
default_role = "code"  # docstrings write code in single backticks

html_theme = "furo"
html_title = f"Flowloom {version}"
html_static_path = ["theme/style.css"]
html_css_files = ["style.css"]
html_additional_pages = {"index": "start.html"}  # the start page is one folder below
templates_path = ["theme"]
html_show_copyright = html_show_sphinx = False
html_copy_source = False
