"""What the tests of the widgets share: hands and eyes on a figure, and parity."""

import json

import torch

TOLERANCE = 1e-5  # of the largest magnitude: JavaScript beside Python

# How many pixels of the canvas are painted, and in how many colours.
PAINTED = """canvas => {
    const { data } = canvas.getContext("2d")
        .getImageData(0, 0, canvas.width, canvas.height);
    const pixels = new Uint32Array(data.buffer).filter(pixel => pixel !== 0);
    return [pixels.length / (data.length / 4), new Set(pixels).size];
}"""
PICTURES = (
    """figure => [...figure.querySelectorAll("canvas")].map(c => c.toDataURL())"""
)
NUMBERS = """figure => [...figure.querySelectorAll("[data-number]")]
    .map(e => e.textContent)"""
FRAMES = """count => new Promise(done => {
    const next = () => count-- ? requestAnimationFrame(next) : done();
    next();
})"""


class Shown:
    """One figure of an open page."""

    def __init__(self, page, name: str) -> None:
        self.page = page
        self.figure = page.locator(f'figure[data-widget="{name}"]')
        self.figure.scroll_into_view_if_needed()

    def settle(self) -> None:
        """Until the numbers no longer change."""
        self.page.evaluate(FRAMES, 3)
        before, now = None, self.numbers()
        while before != now:
            self.page.wait_for_timeout(150)
            before, now = now, self.numbers()

    def numbers(self) -> list[str]:
        return self.figure.evaluate(NUMBERS)

    def pictures(self) -> list[str]:
        return self.figure.evaluate(PICTURES)

    def get(self, name: str):
        return self.figure.evaluate("(figure, name) => figure.diffedu.get(name)", name)

    def set(self, **values) -> None:
        self.figure.evaluate(
            """(figure, values) => {
                for (const [name, value] of Object.entries(values))
                    figure.diffedu.set(name, value);
            }""",
            values,
        )

    def button(self, name: str):
        return self.figure.get_by_role("button", name=name, exact=True)


def slide(widget, label: str, fraction: float) -> None:
    """Move a slider to a fraction of its range, as a reader's hand would."""
    widget.figure.get_by_role("slider", name=label, exact=True).evaluate(
        """(input, fraction) => {
            const [min, max] = [Number(input.min), Number(input.max)];
            input.value = min + fraction * (max - min);
            input.dispatchEvent(new Event("input", { bubbles: true }));
            input.dispatchEvent(new Event("change", { bubbles: true }));
        }""",
        fraction,
    )


def every_control_changes_the_numbers(widget, sliders, choices) -> None:
    """Every slider in view is among the (label, fraction) pairs and changes numbers and
    pictures; every (label, value) of a choice changes the numbers."""
    labels = {
        slider.get_attribute("aria-label")
        for slider in widget.figure.get_by_role("slider").all()
        if slider.is_visible()
    }
    assert labels == {label for label, _ in sliders}
    for label, fraction in sliders:
        widget.settle()
        before, drawn = widget.numbers(), widget.pictures()
        slide(widget, label, fraction)
        widget.settle()
        assert widget.numbers() != before, label
        assert widget.pictures() != drawn, label
    for label, value in choices:
        before = widget.numbers()
        select = widget.figure.get_by_role("combobox", name=label, exact=True)
        select.select_option(value)
        widget.settle()
        assert widget.numbers() != before, value


def times_while_playing(widget) -> int:
    """How many different times the clock shows in the 1.8 s after Play."""
    widget.button("Play").click()
    return widget.figure.evaluate(
        """async figure => {
            const seen = new Set();
            const until = performance.now() + 1800;
            while (performance.now() < until) {
                seen.add(figure.diffedu.get("t"));
                await new Promise(requestAnimationFrame);
            }
            return seen.size;
        }"""
    )


def plays_by_keyboard(widget) -> None:
    """Space on the play button starts it and stops it."""
    widget.button("Play").focus()
    for playing in (True, False):
        widget.page.keyboard.press("Space")
        assert widget.get("playing") is playing


def says(place, message: str) -> None:
    """A figure, or a page, tells the reader what is wrong."""
    alert = place.get_by_role("alert")
    alert.wait_for(timeout=10_000)
    assert message in alert.text_content()


def middle(locator) -> tuple[float, float]:
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def broken(html: str, **state) -> str:
    """The HTML face with something in its state replaced."""
    start = html.index('<script type="application/json">') + 32
    end = html.index("</script>")
    return html[:start] + json.dumps(json.loads(html[start:end]) | state) + html[end:]


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def assert_same(javascript, python, scale: float | None = None) -> None:
    """Equal to 1e-5 of the largest magnitude (or of `scale`)."""
    python = torch.as_tensor(python, dtype=torch.float64).flatten()
    javascript = torch.tensor(javascript, dtype=torch.float64).flatten()
    assert javascript.shape == python.shape
    assert javascript.isfinite().all()
    error = (javascript - python).abs().max()
    assert error <= TOLERANCE * (scale or max(1e-3, float(python.abs().max())))
