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


def modules(*names: str) -> str:
    """The modules and all that they import, each after what it imports."""
    order: list[str] = []

    def add(name: str) -> None:
        source = (STATIC / f"{name}.js").read_text(encoding="utf-8")
        for match in IMPORT.finditer(source):
            add(match[2])
        if name not in order:
            order.append(name)

    for name in names:
        add(name)
    return "\n".join(map(_module, order))


@cache
def bundle_module(widget: str) -> str:
    """The ES module for anywidget; it exports `{ render }`."""
    return f"{modules(widget)}\nexport default {{ render: {widget}.render }};\n"


@cache
def bundle_classic(*widgets: str) -> str:
    """A classic script that brings every `<figure class="diffedu-widget">` to life."""
    return (
        f'(() => {{\n"use strict";\n{modules("hydrate", *widgets)}\n'
        f"hydrate.hydrate_page({{ {', '.join(widgets)} }});\n}})();\n"
    )


@cache
def stylesheet() -> str:
    """The widgets' CSS."""
    return (STATIC / "widget.css").read_text(encoding="utf-8")
