"""The page of `imagefs report`, in a real browser: harmless, alone, and for everybody to use."""

import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from imagefs.report.page import page
from imagefs.report.survey import survey
from tests.support.browser import Browser
from tests.support.polling import soon
from tests.support.tars import Dir, File, layer
from tests.tree.test_waste import examined

# One browser for all of them.
pytestmark = pytest.mark.xdist_group("browser")

TAGS = (
    "<img src=x onerror=alert(1)>",
    "\"><script>alert('x')</script>",
    "</script><script>alert(2)</script>",
    "{{ 7 * 7 }}",
    "&lt;b&gt;",
)
LETTERS = {
    "gpj\u202e.exe": "gpj\\u202e.exe",
    "a\x1b[2Jb": "a\\x1b[2Jb",
    "\udcff\udcfe": "\\udcff\\udcfe",
}
MINUS = "\N{MINUS SIGN}"
EVIL = [*(tag.replace("/", "\u2215") for tag in TAGS), *LETTERS]
CONFIG = {
    "os": "linux",
    "architecture": "amd64",
    "config": {
        "Entrypoint": ["/bin/sh", "-c", TAGS[0]],
        "User": TAGS[1],
        "Env": ["PATH=/bin", f"X={TAGS[2]}", "\u202eY=1"],
        "Labels": {TAGS[0]: TAGS[1], "odd": [1, {"a": None}]},
        "Volumes": {"/data": {}},
    },
    "created": 7,
}


def lower() -> bytes:
    members: dict[str, object] = {
        f"usr/share/{part}/{number}": "x" * (50 * number + 1)
        for part in ("doc", "man", "locale")
        for number in range(12)
    }
    members |= {f"usr/lib/{name}": File("y" * 3000) for name in EVIL}
    members |= {f"odd/{name}/x": File("y" * 500) for name in EVIL}
    members |= {"etc/passwd": f"root:x:0:0::/root:/bin/sh\n{TAGS[0]}:x:1:1:::\n"}
    members |= {"tmp/": Dir(0o1777), "su": File("x", 0o4755), "gone/a": "z" * 900}
    return layer(members)


def upper() -> bytes:
    changed = {f"usr/lib/{EVIL[0]}": File("y" * 3000, 0o600), f"usr/lib/.wh.{EVIL[1]}": ""}
    return layer({**changed, ".wh.gone": "", "opt/new": "n" * 2000})


class Pages(NamedTuple):
    """A page of an image as its files have it, by what it is of."""

    one: Path
    empty: Path


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """Pages of a hostile image and of one without a layer."""
    folder = tmp_path_factory.mktemp("pages")
    found = examined([lower(), upper()], folder)
    layers = [
        replace(one, created_by=f"RUN {tag} {'long ' * 300}", damage=tag * number)
        for number, (one, tag) in enumerate(zip(found.image.layers, TAGS, strict=False))
    ]
    image = replace(
        found.image,
        names=(TAGS[1],),
        config=json.dumps(CONFIG).encode(),
        layers=tuple(layers),
    )
    one, empty = folder / "one.html", folder / "empty.html"
    one.write_text(page([survey(found._replace(image=image))]))
    empty.write_text(page([survey(examined([], folder))]))
    return Pages(one, empty)


class Tags(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_asks_for_nothing(pages: Pages) -> None:
    """Neither a name nor a step makes a tag, and nothing in it leads out of the page."""
    content = pages.one.read_text()
    parser = Tags()
    parser.feed(content)
    tags = [tag for tag, _ in parser.found]
    assert tags.count("script") == 2
    assert not {"img", "b2", "iframe", "link", "object"} & set(tags)
    for tag, attributes in parser.found:
        assert not [name for name in attributes if name.startswith("on") or name == "src"], tag
        assert "style" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    assert not [letter for letter in content if not letter.isprintable() and letter != "\n"]


@pytest.mark.parametrize("width", [320, 800, 1400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_for_everybody(browser: Browser, pages: Pages, width: int, dark: bool) -> None:
    """Nothing is logged or asked for, nothing is cut off, and axe finds no fault."""
    for path in pages:
        browser.show(path, width, dark=dark)
        assert soon(lambda: browser.run("return document.readyState") == "complete")
        browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true })")
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.faults() == []
        assert browser.logged() == []
        assert browser.requests() == [path.as_uri()]


def test_on_paper_it_is_dark_on_light(browser: Browser, pages: Pages) -> None:
    """Whatever the screen is like; and what only leads elsewhere in the page is left out."""
    browser.show(pages.one, dark=True)
    ink = "return getComputedStyle(document.body).color"
    on_screen = browser.run(ink)
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    browser.do("Emulation.setEmulatedMedia", media="print", features=[dark])
    assert browser.run(ink) == "rgb(26, 31, 38)" != on_screen
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    assert not browser.driver.find_element(By.CSS_SELECTOR, "nav.jump").is_displayed()


def test_names_are_text(browser: Browser, pages: Pages) -> None:
    """What is an image's is shown letter by letter, and no letter of it is obeyed."""
    browser.show(pages.one)
    text = browser.run("return document.body.textContent")
    for name in EVIL:
        assert LETTERS.get(name, name) in text
    for words in (*TAGS, "\\u202eY", '"/bin/sh" "-c"'):
        assert words in text
    assert "49" not in browser.run("return document.querySelector('h1').textContent")
    assert browser.run("return document.title").startswith(TAGS[1])


def test_the_policy_forbids_all_else(browser: Browser, pages: Pages, tmp_path: Path) -> None:
    """A script or a style that got into the page would not run, and no picture be asked for."""
    more = "<script>document.title = 'run'</script><style>body { display: none }</style>"
    more += "<img src='other.png'><p id=p style='color: red' onclick='document.title=1'>p</p>"
    changed = tmp_path / "changed.html"
    changed.write_text(pages.one.read_text().replace("</main>", f"{more}</main>"))
    (tmp_path / "other.png").write_bytes(b"")
    browser.show(changed)
    browser.run("document.querySelector('#p').click()")
    assert browser.run("return document.title") not in ("run", "1")
    assert browser.run("return getComputedStyle(document.body).display") != "none"
    assert len(browser.logged()) >= 4
    assert browser.requests() == [changed.as_uri()]


# The map


def crumbs(browser: Browser) -> str:
    found = browser.driver.find_element(By.CSS_SELECTOR, ".crumbs ol")
    return "/".join(found.text.split())


def cell(browser: Browser, name: str) -> WebElement:
    """The directory of a name in the map."""
    for one in browser.driver.find_elements(By.CSS_SELECTOR, ".treemap a"):
        if one.accessible_name.startswith(f"{name},"):
            return one
    raise AssertionError(name)


def says(browser: Browser, words: str) -> Callable[[], bool]:
    return lambda: crumbs(browser) == words


def test_directories_open_by_mouse(browser: Browser, pages: Pages) -> None:
    """A click enters one, the way above leads back, and so does the browser's own back."""
    browser.show(pages.one)
    assert crumbs(browser) == "rootfs"
    cell(browser, "usr").find_element(By.CSS_SELECTOR, ".edge").click()
    assert soon(says(browser, "rootfs/usr"))
    cell(browser, "share").find_element(By.CSS_SELECTOR, ".edge").click()
    assert soon(says(browser, "rootfs/usr/share"))
    status = browser.driver.find_element(By.CSS_SELECTOR, "[role=status]").text
    assert status == "/usr/share: 9.9 kB in 36 files"
    browser.driver.find_element(By.LINK_TEXT, "doc/").click()
    assert soon(says(browser, "rootfs/usr/share/doc"))
    rows = browser.driver.find_elements(By.CSS_SELECTOR, ".map tbody tr")
    assert [row.text.split()[0] for row in rows][:3] == ["11", "10", "9"]
    browser.driver.back()
    assert soon(says(browser, "rootfs/usr/share"))
    browser.driver.find_element(By.LINK_TEXT, "rootfs").click()
    assert soon(says(browser, "rootfs"))
    assert browser.logged() == []


def active(browser: Browser) -> WebElement:
    """What has the keyboard."""
    return browser.driver.switch_to.active_element


def test_directories_open_by_keyboard(browser: Browser, pages: Pages) -> None:
    """Tab reaches the map, arrows go around in it, Enter enters and Escape leaves."""
    browser.show(pages.one)
    active(browser).send_keys(Keys.TAB)
    assert active(browser).accessible_name == "Skip to the report"
    for _ in range(40):
        active(browser).send_keys(Keys.TAB)
        first = active(browser).accessible_name
        if first.startswith("usr,"):
            break
    active(browser).send_keys(Keys.ARROW_RIGHT)
    assert active(browser).accessible_name != first
    active(browser).send_keys(Keys.ARROW_LEFT)
    active(browser).send_keys(Keys.ENTER)
    assert soon(says(browser, "rootfs/usr"))
    assert active(browser).accessible_name.startswith(("lib,", "share,"))
    active(browser).send_keys(Keys.ESCAPE)
    assert soon(says(browser, "rootfs"))


def test_changes_fold(browser: Browser, pages: Pages) -> None:
    """A layer's tree opens with Enter, and shows what was added, changed and deleted."""
    browser.show(pages.one)
    top = browser.driver.find_elements(By.CSS_SELECTOR, ".layer > summary")[1]
    tree = browser.driver.find_elements(By.CSS_SELECTOR, ".layer > .tree")[1]
    assert not tree.is_displayed()
    top.send_keys(Keys.ENTER)
    assert soon(tree.is_displayed)
    assert f"{MINUS} gone 900 B" in tree.text
    for summary in tree.find_elements(By.CSS_SELECTOR, "summary"):
        summary.send_keys(Keys.ENTER)
    assert soon(lambda: f"~ {EVIL[0]} 3.0 kB" in tree.text)
    assert f"{MINUS} {EVIL[1]} 3.0 kB" in tree.text
    assert "+ new 2.0 kB" in tree.text


def test_a_link_to_a_place_opens_it(browser: Browser, pages: Pages, tmp_path: Path) -> None:
    """The address tells the place in the map; one that is nowhere is the nearest there is."""
    browser.show(pages.one)
    cell(browser, "usr").find_element(By.CSS_SELECTOR, ".edge").click()
    assert soon(says(browser, "rootfs/usr"))
    address = browser.driver.current_url
    browser.driver.get("about:blank")
    browser.driver.get(address)
    assert soon(says(browser, "rootfs/usr"))
    for words in ("99.9", "0.999", "x", "0.0.0.0.0.0.0"):
        browser.run(f"location.hash = '#map-0/{words}'")
    browser.run("location.hash = '#map-7/0'")
    assert browser.logged() == []


def test_without_scripts_there_is_a_map(browser: Browser, pages: Pages) -> None:
    """Who lets no script run sees the first level of the map, and no list that stays empty."""
    disabled = "Emulation.setScriptExecutionDisabled"
    browser.do(disabled, value=True)
    try:
        browser.show(pages.one)
        cells = browser.driver.find_elements(By.CSS_SELECTOR, ".treemap g")
        assert "usr" in [one.text.split("\n")[0] for one in cells]
        assert not browser.driver.find_element(By.CSS_SELECTOR, ".list").is_displayed()
    finally:
        browser.do(disabled, value=False)


def test_an_honest_page_is_small(tmp_path: Path) -> None:
    """What is shown has a bound, and the page of a large image is below 300 kB."""
    layers = [
        layer({f"usr/lib/package-{a}/part-{b}/file-{c}.py": f"{a * b * c}" for a in range(20)
               for b in range(20) for c in range(10 * number, 10 * number + 12)})
        for number in range(5)
    ]  # fmt: skip
    made = page([survey(examined(layers, tmp_path))])
    assert 100_000 < len(made.encode()) < 300_000
