"""A Sphinx extension: whatever the built book serves that is not in the repository.

What jupyter-book's extensions get wrong between them is mended here as well.

MathJax comes from the installed `sphinx-mathjax-offline` package, of which only the
files that a page can ask for are taken; the script and the styles that bring the
widgets to life come from `diffedu.widgets`.  Both are written to a folder beside the
built book, which Sphinx then copies like any other static folder.
"""

import shutil
from importlib.metadata import distribution
from pathlib import Path

from docutils import nodes

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

SHARED_IDS = ("proof", "proof-content", "exercise-content", "solution-content")

NO_SUMMARIES_FROM_FILES = """
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
"""


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


def switch_off_thebe(app) -> None:
    """Undo jupyter-book's loading of Thebe, which nothing here launches.

    It would declare the address of its script on every page, twice, and the second
    declaration is an error in the console.  Its style sheet, which every page still
    names, goes on being copied when the builder starts.
    """
    for event, listeners in list(app.events.listeners.items()):
        for listener in list(listeners):
            thebe = listener.handler.__module__ == "sphinx_thebe"
            if thebe and event != "builder-inited":
                app.disconnect(listener.id)


def mend_boxes(app, doctree) -> None:
    """Make the boxes of sphinx-proof and sphinx-exercise fit to be folded.

    Every proof of a page, and every body of a theorem, an exercise or a solution, gets
    the same id, so that a click on one proof would unfold the first: number them.  A
    proof has no title, on which the script that folds puts its button and without which
    it stops with an error: give folded proofs one.
    """
    counts: dict[str, int] = {}
    for box in doctree.findall(nodes.Element):
        for i, name in enumerate(box.get("ids", ())):
            if name in SHARED_IDS:
                counts[name] = counts.get(name, 0) + 1
                box["ids"][i] = f"{name}-{counts[name]}"
    for proof in doctree.findall(nodes.admonition):
        if {"proof", "dropdown"} <= set(proof["classes"]):
            text = next(iter(proof.findall(nodes.Text)))
            rest = nodes.Text(text.removeprefix("Proof.").lstrip())
            text.parent.replace(text, rest)
            proof.insert(0, nodes.title("", "Proof"))


def setup(app) -> dict:
    app.connect("config-inited", write_assets)
    app.connect("doctree-read", mend_boxes)
    switch_off_thebe(app)
    # A browser refuses to fetch the pages that it would quote from in search results
    # when the book is a file:// copy; the results themselves need no fetch.
    app.add_js_file(None, body=NO_SUMMARIES_FROM_FILES)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
