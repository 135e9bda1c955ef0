"""A Sphinx extension: whatever the built book serves that is not in the repository.

MathJax comes from the installed `sphinx-mathjax-offline` package, of which only the
files that a page can ask for are taken; the script and the styles that bring the
widgets to life come from `diffedu.widgets`.  Both are written to a folder beside the
built book, which Sphinx then copies like any other static folder.
"""

import shutil
from importlib.metadata import distribution
from pathlib import Path

from diffedu.widgets import bundle_classic, stylesheet

# tex-svg.js typesets by itself.  The rest is what its context menu may load: the other
# renderer, rarely used TeX extensions, and the accessibility explorer.
MATHJAX_FILES = (
    "tex-svg.js",
    "output/chtml.js",
    "output/chtml/**/*",
    "input/tex/extensions/*.js",
    "a11y/*.js",
    "sre/mathmaps/base.json",
    "sre/mathmaps/en.json",
    "sre/mathmaps/nemeth.json",
)


def mathjax_folder() -> Path:
    """The folder of MathJax in the installed package, found by its own file list."""
    files = distribution("sphinx-mathjax-offline").files or []
    (main,) = [file for file in files if file.name == "tex-svg.js"]
    return Path(str(main.locate())).parent


def copy_mathjax(target: Path) -> None:
    """Copy to `target` every file of `MATHJAX_FILES` that is not already there."""
    source = mathjax_folder()
    for pattern in MATHJAX_FILES:
        for file in source.glob(pattern):
            copy = target / file.relative_to(source)
            if file.is_file() and not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)


def write_assets(app, config) -> None:
    """Fill the generated folder and tell Sphinx and every page about it."""
    folder = Path(app.outdir).parent / "generated"
    copy_mathjax(folder / "mathjax")
    (folder / "diffedu-widgets.js").write_text(bundle_classic(), encoding="utf-8")
    (folder / "diffedu-widgets.css").write_text(stylesheet(), encoding="utf-8")
    config.html_static_path.append(str(folder))
    config.html_css_files.append("diffedu-widgets.css")
    config.html_js_files.append(("diffedu-widgets.js", {"defer": "defer"}))


def setup(app) -> dict:
    app.connect("config-inited", write_assets)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
