"""What every widget shares: checked state, and three faces of it.

A widget shows itself as a live widget where a kernel lives; as a figure that holds its
state as data and a picture of its first frame, which the book's script brings to life;
and as one line of text.
"""

import base64
import html
import importlib
import json
import math
from typing import Any

import anywidget
import torch
import traitlets

from diffedu.widgets._picture import Picture, default_style


class StateError(traitlets.TraitError, ValueError):
    """A ValueError that lets traitlets undo the assignment."""


class Checked(traitlets.TraitType):
    """A trait of the state: sent to the page, refused with a ValueError."""

    def __init__(self, default: Any, **metadata: Any) -> None:
        super().__init__(default, **metadata)
        self.tag(sync=True, state=True)

    def refuse(self, needed: str, value: Any) -> None:
        raise StateError(f"{self.name} must be {needed}, got {value!r}")


class Text(Checked):
    """A str."""

    def validate(self, obj: Any, value: Any) -> str:
        if not isinstance(value, str):
            self.refuse("a str", value)
        return value


class Flag(Checked):
    """A bool."""

    def validate(self, obj: Any, value: Any) -> bool:
        if not isinstance(value, bool):
            self.refuse("True or False", value)
        return value


class OneOf(Checked):
    """One of a few strings, the first by default."""

    def __init__(self, *choices: str) -> None:
        super().__init__(choices[0])
        self.choices = choices

    def validate(self, obj: Any, value: Any) -> str:
        if value not in self.choices:
            self.refuse(f"one of {', '.join(map(repr, self.choices))}", value)
        return value


class Whole(Checked):
    """A whole number between two others."""

    def __init__(self, default: int, least: int, most: int) -> None:
        super().__init__(default)
        self.least, self.most = least, most

    def validate(self, obj: Any, value: Any) -> int:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not self.least <= value <= self.most:
            self.refuse(f"a whole number from {self.least} to {self.most}", value)
        return value


class Real(Checked):
    """A finite number between two others."""

    def __init__(self, default: float, least: float, most: float = math.inf) -> None:
        super().__init__(default)
        self.least, self.most = least, most

    def validate(self, obj: Any, value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not (math.isfinite(number) and self.least <= number <= self.most):
            self.refuse(f"a number from {self.least:g} to {self.most:g}", value)
        return number


class Array(Checked):
    """Numbers as nested tuples; on the wire, base64 little-endian float32."""

    def __init__(self) -> None:
        super().__init__(())
        self.tag(to_json=_array_to_json, from_json=_array_from_json)

    def validate(self, obj: Any, value: Any) -> tuple:
        try:
            tensor = torch.as_tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            self.refuse("a nested list or a tensor of numbers", value)
        return _nested(tensor.tolist())


def _nested(value: Any) -> Any:
    return tuple(map(_nested, value)) if isinstance(value, list) else value


def _array_to_json(value: tuple, widget: Any) -> dict:
    array = torch.tensor(value, dtype=torch.float32).numpy()
    data = base64.b64encode(array.astype("<f4").tobytes()).decode()
    return {"shape": list(array.shape), "data": data}


def _array_from_json(value: dict, widget: Any) -> list:
    array = torch.frombuffer(
        bytearray(base64.b64decode(value["data"])), dtype=torch.float32
    )
    return array.double().reshape(value["shape"]).tolist()


class Widget(anywidget.AnyWidget):
    """A widget of the book: its text, its state, and three faces of it.

    The state is the traits defined here and in the subclass: assign to them and the
    widget redraws; observe them, and you hear the reader's hand. A subclass states
    `_name` (its JavaScript module), `_esm` and `_css`, its default title and caption,
    `_description` and `_pictures`.

    Raises:
        ValueError: a trait is assigned something that it cannot be.
    """

    _name = ""

    title = Text("")
    caption = Text("")
    seed = Whole(0, least=0, most=2**32 - 1)
    playing = Flag(False)

    # Abstract by hand: traitlets' metaclass does not mix with ABCMeta

    def _pictures(self) -> list[Picture]:
        """The first frame, one picture per panel."""
        raise NotImplementedError

    def _description(self) -> str:
        """The state in a few words."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._description()})"

    def _state(self) -> dict:
        """The state as the page receives it."""
        return {
            name: trait.metadata["to_json"](getattr(self, name), self)
            if "to_json" in trait.metadata
            else getattr(self, name)
            for name, trait in sorted(self.traits(state=True).items())
        }

    def _repr_html_(self) -> str | None:
        """A figure: the state as inert JSON, and a picture for who has no script."""
        if _in_colab():
            return None
        state = json.dumps(self._state(), separators=(",", ":")).replace("<", r"\u003c")
        alternative = html.escape(f"{self.title}: {self._description()}.")
        with default_style():
            images = "".join(
                f'<img alt="{alternative if i == 0 else ""}" width="{picture.width}" '
                f'height="{picture.height}" '
                f'src="data:image/png;base64,{picture.base64()}">'
                for i, picture in enumerate(self._pictures())
            )
        return (
            f'<figure class="diffedu-widget" data-widget="{self._name}">\n'
            f'<p class="diffedu-title">{html.escape(self.title)}</p>\n'
            f'<div class="diffedu-body"><div class="diffedu-stage">{images}</div>'
            '<div class="diffedu-side"></div></div>\n'
            '<div class="diffedu-below"></div>\n'
            f"<figcaption>{html.escape(self.caption)}</figcaption>\n"
            f'<script type="application/json">{state}</script>\n'
            "</figure>"
        )

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_() or ({}, {})
        data["text/plain"] = repr(self)
        face = self._repr_html_()
        if face is not None:
            data["text/html"] = face
        return data, metadata


def _in_colab() -> bool:
    """Whether Colab's front end shows the output: it would show both faces."""
    try:
        importlib.import_module("google.colab")
    except ImportError:
        return False
    return True
