"""The built book in a browser: every page, over file:// and http, wide and narrow."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from tests.conftest import ROOT

PHONE = {"width": 390, "height": 844}


def pages() -> list[str]:
    """Every page of the table of contents, and the two that Sphinx adds."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [c["file"] for part in toc["parts"] for c in part["chapters"]]
    return [toc["root"], *chapters, "search", "genindex"]


def settle(page) -> None:
    """Wait until the mathematics is set and nothing more is asked for."""
    page.wait_for_load_state("networkidle")
    page.evaluate("() => window.MathJax?.startup?.promise")


# Mathematics that was not typeset, and mathematics that MathJax could not read.
UNSET = """() => [...document.querySelectorAll("span.math, div.math")]
    .filter(e => !e.querySelector("mjx-container svg"))
    .map(e => e.textContent)"""
MISREAD = """() => [...document.querySelectorAll("[data-mjx-error], mjx-merror")]
    .map(e => e.getAttribute("data-mjx-error") ?? e.textContent)"""

# Text whose contrast with the ground behind it, as blended, is below WCAG's 4.5.
FAINT = """() => {
    const numbers = colour => {
        const [r, g, b, a] = colour.match(/[\\d.]+/g).map(Number);
        return {rgb: [r, g, b], a: a ?? 1};
    };
    const linear = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const luminance = rgb => {
        const [r, g, b] = rgb.map(c => linear(c / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const lineage = e => e ? [e, ...lineage(e.parentElement)] : [];
    const ground = e => {
        const solid = lineage(e).map(p => numbers(getComputedStyle(p).backgroundColor));
        return solid.find(colour => colour.a === 1)?.rgb ?? [255, 255, 255];
    };
    const contrast = e => {
        const {rgb, a} = numbers(getComputedStyle(e).color);
        const opacity = lineage(e)
            .reduce((o, p) => o * getComputedStyle(p).opacity, a);
        const paper = ground(e);
        const ink = rgb.map((c, i) => opacity * c + (1 - opacity) * paper[i]);
        const [dark, light] = [luminance(ink), luminance(paper)].sort((x, y) => x - y);
        return (light + 0.05) / (dark + 0.05);
    };
    const seen = {visibilityProperty: true, opacityProperty: true};
    const tags = ["p", "li", "td", "th", "h1", "h2", "h3", "pre", "pre span",
                  "figcaption", "label", "output"];
    return [...document.querySelectorAll(tags.map(t => `.bd-article ${t}`).join(", "))]
        .filter(e => e.textContent.trim() && e.checkVisibility(seen))
        .filter(e => contrast(e) < 4.5)
        .map(e => [contrast(e).toFixed(2), e.tagName, e.textContent.slice(0, 60)]);
}"""

# What reaches beyond the right edge, unless something around it scrolls or clips.
OUTSIDE = """() => {
    const contained = e => {
        for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
            if (getComputedStyle(p).overflowX !== "visible") return true;
        return false;
    };
    const seen = {visibilityProperty: true, opacityProperty: true};
    return [...document.querySelectorAll(".bd-article *")]
        .filter(e => e.checkVisibility(seen))
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
        .filter(e => !contained(e))
        .map(e => `${e.tagName} ${e.className} ${e.textContent.slice(0, 60)}`);
}"""


@pytest.mark.parametrize(("source", "theme"), [("file", "light"), ("http", "dark")])
@pytest.mark.parametrize("name", pages())
def test_a_page_is_whole(visit, request, name, source, theme):
    """No error, no other host, mathematics set, text readable in either theme."""
    address = request.getfixturevalue(f"book_over_{source}")
    seen = visit(f"{address}/{name}.html", theme=theme)
    page = seen.page
    settle(page)
    assert page.evaluate(UNSET) == []
    assert page.evaluate(MISREAD) == []
    assert page.evaluate("() => document.documentElement.dataset.theme") == theme
    assert page.evaluate(FAINT) == []
    seen.clean()


@pytest.mark.parametrize("name", pages())
def test_a_phone_shows_the_whole_width(visit, book_over_http, name):
    """In both themes; the page follows the reader's preference while it is open."""
    seen = visit(f"{book_over_http}/{name}.html", has_touch=True, **PHONE)
    page = seen.page
    settle(page)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        page.wait_for_function(
            "theme => document.documentElement.dataset.theme === theme", arg=theme
        )
        assert page.evaluate(OUTSIDE) == []
        width = page.evaluate("() => document.scrollingElement.scrollWidth")
        assert width <= PHONE["width"]
    seen.clean()


@pytest.mark.parametrize("name", pages())
def test_without_javascript_every_picture_is_there(visit, book_over_file, name):
    page = visit(f"{book_over_file}/{name}.html", javascript=False).page
    pictures = page.locator(".bd-article img")
    for i in range(pictures.count()):
        picture = pictures.nth(i)
        picture.scroll_into_view_if_needed()
        assert picture.is_visible()
        box = picture.bounding_box()
        assert box["width"] >= 60
        assert box["height"] >= 60
        assert picture.evaluate("e => e.complete && e.naturalWidth > 0")
    widgets = page.locator("figure.diffedu-widget")
    for i in range(widgets.count()):
        assert widgets.nth(i).locator("img").count() >= 1


def test_search_finds_a_word_of_the_book(visit, book_url):
    seen = visit(f"{book_url}/search.html?q=notation")
    seen.page.wait_for_selector("#search-results a", timeout=5000)
    links = seen.page.locator("#search-results a").all()
    assert any("notation.html" in link.get_attribute("href") for link in links)
    seen.clean()


def test_the_root_leads_to_the_index(visit, book_url):
    page = visit(f"{book_url}/index.html").page
    page.wait_for_url(re.compile(r"/book/index\.html$"), timeout=5000)


def test_folded_proofs_and_solutions_open(visit, book_over_http):
    """Each opens itself, and only itself."""
    folded = 0
    for name in pages():
        page = visit(f"{book_over_http}/{name}.html").page
        settle(page)
        boxes = page.locator("div.admonition.dropdown")
        closed = page.locator("div.admonition.dropdown.toggle-hidden")
        folded += boxes.count()
        assert closed.count() == boxes.count()
        for left, box in zip(reversed(range(boxes.count())), boxes.all(), strict=True):
            height = box.bounding_box()["height"]
            box.locator("button.toggle-button").click()
            assert "toggle-hidden" not in box.get_attribute("class")
            assert closed.count() == left
            assert box.bounding_box()["height"] > height
    assert folded > 0


# Links, without a browser


class _Page(HTMLParser):
    """The links and the anchors of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.twice: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        given = dict(attrs)
        if name := given.get("id"):
            if name in self.anchors:
                self.twice.append(name)
            self.anchors.add(name)
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        source = given.get("src") or (given.get("href") if tag == "link" else None)
        if source:
            self.loads.append(source)


@pytest.fixture(scope="module")
def parsed(built_book) -> dict[Path, _Page]:
    return {
        path: _Page(path.read_text(encoding="utf-8"))
        for path in sorted(built_book.rglob("*.html"))
        if "_static" not in path.relative_to(built_book).parts
    }


def test_every_page_of_the_contents_is_built(built_book):
    missing = [n for n in pages() if not (built_book / f"{n}.html").is_file()]
    assert missing == []


def test_links_and_anchors_lead_somewhere(parsed):
    dead = []
    for path, page in parsed.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path
            if parts.path:
                target = (path.parent / unquote(parts.path)).resolve()
            anchor = unquote(parts.fragment)
            if not target.is_file():
                dead.append(f"{path.name}: {link}")
            elif anchor and target.suffix == ".html":
                known = parsed[target].anchors if target in parsed else set()
                if anchor not in known:
                    dead.append(f"{path.name}: {link} (no such anchor)")
    assert dead == []


def test_nothing_is_loaded_from_another_host(parsed):
    foreign = [
        f"{path.name}: {source}"
        for path, page in parsed.items()
        for source in page.loads
        if urlsplit(source).netloc
    ]
    assert foreign == []


def test_an_id_names_one_thing_on_a_page(parsed):
    twice = {path.name: page.twice for path, page in parsed.items() if page.twice}
    assert twice == {}
