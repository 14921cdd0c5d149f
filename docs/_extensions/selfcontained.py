"""After a build: pages load files of the site alone, and links inside the site lead somewhere."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# Attributes that make a browser fetch something while it shows a page; links in the text do not.
FETCHED = {"src", "srcset", "poster", "data"}


class Page(HTMLParser):
    """What a page fetches, where it links to, and the places in it that a link can name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if not value:
                continue
            if key in ("id", "name"):
                self.anchors.add(value)
            elif key in FETCHED or (tag == "link" and key == "href"):
                self.fetched.append(value)
            elif tag == "a" and key == "href":
                self.links.append(value)
            elif key == "style":
                self.fetched += re.findall(r"url\(['\"]?([^'\")]+)", value)


def problems(folder: Path) -> Iterator[str]:
    """Requests that leave the site, and links inside that lead nowhere.

    Args:
        folder: A built site.

    Yields:
        One line for each.
    """
    pages = {path: Page(path.read_text()) for path in sorted(folder.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(folder)
        for target in page.fetched:
            if urlsplit(target).netloc:
                yield f"{name} asks another server for {target}"
            elif not urlsplit(target).scheme and not _place(path, target).exists():
                yield f"{name} shows {target}, which does not exist"
        for target in page.links:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            place = _place(path, target)
            if not place.exists():
                yield f"{name} links to {target}, which does not exist"
            elif place in pages and unquote(parts.fragment) not in pages[place].anchors:
                yield f"{name} links to {target}, and there is no such place on that page"
    for path in sorted(folder.rglob("*.css")):
        for target in re.findall(r"url\(['\"]?((?:https?:)?//[^'\")]+)", path.read_text()):
            yield f"{path.relative_to(folder)} asks another server for {target}"


def _place(page: Path, target: str) -> Path:
    path = unquote(urlsplit(target).path)
    return (page.parent / path).resolve() if path else page


def _check(app: Any, error: Exception | None) -> None:
    from sphinx.errors import ExtensionError

    if error is None and app.builder.name == "html":
        found = list(problems(Path(app.outdir).resolve()))
        if found:
            raise ExtensionError("\n".join(found))


def setup(app: Any) -> dict[str, bool]:
    """Check what was built."""
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
