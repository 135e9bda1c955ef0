"""The widgets' JavaScript as one file, without a build tool.

The modules in `static/` import each other by name. Here each becomes a function that
returns its exports, in the order of their imports, which every host can run: JupyterLab
as the module of a widget, a static page as one classic script (a browser refuses module
scripts from file://).
"""

import re
from functools import cache
from pathlib import Path

STATIC = Path(__file__).parent / "static"
IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";$', re.MULTILINE)
EXPORT = re.compile(r"^export ((?:function\*?|class|const) (\w+))", re.MULTILINE)


def _module(name: str) -> str:
    """The module as `const name = (() => { …; return { its exports }; })();`."""
    source = (STATIC / f"{name}.js").read_text(encoding="utf-8")
    exports = ", ".join(match[2] for match in EXPORT.finditer(source))
    body = EXPORT.sub(r"\1", IMPORT.sub(r"const {\1} = \2;", source))
    return f"const {name} = (() => {{\n{body}\nreturn {{ {exports} }};\n}})();\n"


@cache
def bundle_module(*names: str) -> str:
    """The ES module for anywidget of the widget named last; it exports `{ render }`."""
    modules = "\n".join(map(_module, names))
    return f"{modules}\nexport default {{ render: {names[-1]}.render }};\n"


@cache
def bundle_classic(*widgets: str) -> str:
    """A classic script that brings every `<figure class="diffedu-widget">` to life."""
    modules = "\n".join(
        map(_module, ("core", "figure", "mixture_widget", "hydrate", *widgets))
    )
    return (
        f'(() => {{\n"use strict";\n{modules}\n'
        f"hydrate.hydrate_page({{ {', '.join(widgets)} }});\n}})();\n"
    )


@cache
def stylesheet() -> str:
    """The widgets' CSS."""
    return (STATIC / "widget.css").read_text(encoding="utf-8")
