"""The page of a heap in a real browser: it draws, zooms, finds, and says what it shows.

One browser for all: starting it takes longer than the tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from browser import HAS_BROWSER, browser, set_dark

import pmemheap
from pmemheap import Heap
from pmemheap.pictures import report
from pmemheap.traces import parse

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not HAS_BROWSER, reason="chromium, its driver, selenium expected: make pictures"
    ),
]

UNIT = 4096
MILLION = 1_000_000
TRACE = "# calls 3 7000000\na 0 4000000\na 1 3000000\nf 0\n"


PIXELS = """
const pixels = (offsets) => {
  const map = document.getElementById("map"), told = document.getElementById("view").textContent;
  const first = parseInt(told.match(/from 0x([0-9a-f]+)/)[1], 16), width = map.clientWidth;
  const bytes = parseFloat(told.match(/: ([\\d.]+) KiB/)[1]) * 1024;
  const rows = Math.floor(map.clientHeight / 11), scale = bytes / (rows * width);
  const image = map.getContext("2d").getImageData(0, 0, map.width, map.height);
  return offsets.map((at) => {
    const pixel = Math.floor((at - first) / scale), row = Math.floor(pixel / width);
    const y = (row * 11 + 5) * devicePixelRatio, x = (pixel % width) * devicePixelRatio;
    return image.data.slice((y * map.width + x) * 4, (y * map.width + x) * 4 + 4).join();
  });
};
"""
"""The colours at some offsets, of what is in view."""


class World(NamedTuple):
    """A page of a heap of a million units, in a browser, and what there is in the heap."""

    driver: Any
    url: str
    in_part: int  # the first block of a run of which every second one lives
    large: int
    arena: int


def made(path: Path) -> tuple[int, int, int]:
    """Write the page."""
    with Heap.anonymous() as heap:
        offsets = heap.malloc_many(1000, 2000).tolist()
        for offset in offsets[1::2]:
            heap.free(offset)
        large = heap.malloc(100_000)
        many = [heap.malloc(UNIT * (1 + n % 90)) for n in range(25_000)]
        for offset in many[::3]:
            heap.free(offset)
        queue = heap.arena("<i>queue</i>", strategy=pmemheap.Ring())
        first = queue.malloc(100)
        assert heap.stats().mapped > MILLION * UNIT
        report(heap, path, trace=parse(TRACE.splitlines(), "calls"))
        return offsets[0], large, first


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    path = tmp_path_factory.mktemp("page") / "heap.html"
    offsets = made(path)
    with browser() as driver:
        set_dark(driver, False)
        driver.get(path.as_uri())
        yield World(driver, path.as_uri(), *offsets)


@pytest.fixture
def page(world: World) -> Iterator[World]:
    """The page with the whole heap in view; afterwards nothing is in the console."""
    press(world, "Escape")
    yield world
    assert world.driver.get_log("browser") == []


def run(world: World, script: str, *arguments: object) -> Any:
    return world.driver.execute_script(script, *arguments)


def text(world: World, name: str) -> str:
    return str(run(world, "return document.getElementById(arguments[0]).textContent", name))


def settled(world: World) -> None:
    """Wait until what was asked for is drawn."""
    world.driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
    )


def press(world: World, *keys: str) -> None:
    """Press keys in the map, as the keyboard does."""
    for key in keys:
        run(
            world,
            "const map = document.getElementById('map'); map.focus();"
            "map.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true}))",
            key,
        )
    settled(world)


def search(world: World, what: str) -> None:
    field = world.driver.find_element("id", "offset")
    field.clear()
    field.send_keys(what + "\n")
    settled(world)


def picture(world: World) -> str:
    return str(run(world, "return document.getElementById('map').toDataURL()"))


def span(world: World) -> str:
    return text(world, "view").split(":")[1].split(" from ")[0].strip()


def test_a_page_of_a_million_units_is_there_in_a_second(page: World) -> None:
    def load() -> float:
        page.driver.get(page.url)
        script = "return performance.getEntriesByType('navigation')[0].domComplete"
        return float(run(page, script))

    took = min(load() for _ in range(3))
    assert took < 1000, f"{took} ms"
    assert span(page).endswith("GiB")
    assert run(page, "return performance.getEntriesByType('resource').length") == 0


def test_an_offset_is_found_and_zoomed_to(page: World) -> None:
    search(page, hex(page.in_part + 2 * 1024))
    assert f"live block at {page.in_part + 2048:#x}, 1.00 KiB, in:" in text(page, "where")
    search(page, hex(page.in_part + 1024))
    assert text(page, "where").startswith(f"room for a block at {page.in_part + 1024:#x}")
    search(page, str(page.large + 5))
    assert f"{page.large:#x} in default arena, 100 KiB: large block" in text(page, "said")
    assert "2.34 KiB not asked for" in text(page, "said")
    search(page, hex(page.arena))
    assert f"live block at {page.arena:#x}" in text(page, "where")
    assert "in <i>queue</i>" in text(page, "where")


@pytest.mark.parametrize("wrong", ["ten", "", "0x7fffffffffff0000"])
def test_an_offset_that_is_none_is_said_to_be(page: World, wrong: str) -> None:
    search(page, wrong)
    assert "An offset inside of the heap expected" in text(page, "said")
    field = page.driver.find_element("id", "offset")
    assert field.get_attribute("aria-invalid") == "true"
    assert text(page, "view").startswith("The whole heap")


def test_keys_go_from_piece_to_piece_and_zoom(page: World) -> None:
    press(page, "Home")
    first = text(page, "said")
    assert first.startswith("0x0 in default arena")
    press(page, "ArrowRight")
    second = text(page, "said")
    assert second != first
    press(page, "ArrowLeft")
    assert text(page, "said") == first
    press(page, "ArrowDown")
    assert int(text(page, "said").split()[0], 16) > 1 << 26
    press(page, "End")
    assert "in <i>queue</i>" in text(page, "said")
    press(page, "Home", "Enter")
    near = span(page)
    assert re.fullmatch(r"[\d.]+ KiB", near)
    press(page, "-")
    assert span(page) != near
    press(page, "+")
    assert span(page) == near
    press(page, "PageDown")
    assert " from 0x0," not in text(page, "view")
    press(page, "Escape")
    assert text(page, "view").startswith("The whole heap")
    press(page, "/")
    assert run(page, "return document.activeElement.id") == "offset"


def test_the_pointer_tells_zooms_and_drags(page: World) -> None:
    from selenium.webdriver import ActionChains  # noqa: PLC0415 -- who has no browser needs none

    canvas = page.driver.find_element("id", "map")
    left = -canvas.size["width"] // 2 + 3
    top = -canvas.size["height"] // 2 + 3
    ActionChains(page.driver, duration=0).move_to_element_with_offset(canvas, left, top).perform()
    assert re.search(r"\b0x[0-9a-f]+ in default arena, ", text(page, "where"))
    run(
        page,
        "const map = document.getElementById('map'), box = map.getBoundingClientRect();"
        "for (let i = 0; i < 60; i++) map.dispatchEvent(new WheelEvent('wheel',"
        "{deltaY: -1, clientX: box.left + 3, clientY: box.top + 3, cancelable: true}))",
    )
    settled(page)
    assert re.fullmatch(r"[\d.]+ (KiB|bytes)", span(page))
    before = text(page, "view")
    chain = ActionChains(page.driver, duration=0).move_to_element(canvas).click_and_hold()
    chain.move_by_offset(-40, -40).release().perform()
    settled(page)
    assert text(page, "view") != before
    assert span(page) == before.split(":")[1].split(" from ")[0].strip()


def test_blocks_that_live_are_drawn_and_those_that_do_not_are_not(page: World) -> None:
    search(page, hex(page.in_part))
    inside = [page.in_part + n * 1024 + 400 for n in range(4)]
    drawn = run(page, f"{PIXELS} return pixels(arguments[0])", inside)
    assert drawn[0] == drawn[2] != drawn[1] == drawn[3]


def test_every_way_to_colour_has_a_picture_and_a_legend(page: World) -> None:
    seen = {}
    for way in ("kind", "size", "fill", "age", "back", "arena"):
        run(
            page,
            "const choice = document.getElementById('colour'); choice.value = arguments[0];"
            "choice.dispatchEvent(new Event('change'))",
            way,
        )
        seen[way] = picture(page), text(page, "legend")
        assert len(page.driver.find_elements("css selector", "#legend li")) >= 3
    assert len({drawn for drawn, _ in seen.values()}) == len(seen)
    assert len({told for _, told in seen.values()}) == len(seen)
    assert "<i>queue</i>" in seen["arena"][1]


def test_dark_and_light_are_both_drawn_and_can_be_read(page: World) -> None:
    def looks() -> tuple[str, list[float]]:
        settled(page)
        script = """
            const light = (text) => text.match(/[\\d.]+/g).slice(0, 3).map((n) => {
              const share = n / 255;
              return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
            }).reduce((sum, n, i) => sum + n * [0.2126, 0.7152, 0.0722][i], 0);
            const paper = light(getComputedStyle(document.body).backgroundColor);
            return ["h1", "header p", "#keys", "caption", "td"].map((name) => {
              const ink = light(getComputedStyle(document.querySelector(name)).color);
              return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
            });
        """
        return picture(page), run(page, script)

    light = looks()
    set_dark(page.driver, True)
    dark = looks()
    set_dark(page.driver, False)
    assert light[0] != dark[0]
    assert looks()[0] == light[0]
    assert min(*light[1], *dark[1]) >= 4.5  # WCAG 2.1, 1.4.3


def test_it_can_be_read_without_seeing_it(page: World) -> None:
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named: Callable[[str], list[str]] = lambda role: [  # noqa: E731 -- a question of this test
        str(node.get("name", {}).get("value", ""))
        for node in tree
        if not node.get("ignored") and node["role"]["value"] == role
    ]
    assert named("application") == ["Map of the heap"]
    assert named("textbox") == ["Offset"]
    assert named("combobox") == ["Colour by"]
    assert named("heading")[1:] == ["What is where", "Figures", "Sizes", "Growth and giving back"]
    assert named("button") == ["Zoom in", "Zoom out", "Whole heap", "Go to"]
    assert all(named("table"))
    assert len(named("table")) >= 6
    [drawn] = [name for name in named("image") if name.startswith("Memory over")]
    assert "3 calls" in drawn
    assert named("status")


def test_the_table_says_what_the_map_shows(page: World) -> None:
    assert text(page, "pieces-caption").startswith("The first 100 of")
    search(page, hex(page.large))
    rows = run(
        page,
        "return [...document.querySelectorAll('#pieces tbody tr')].map("
        "(row) => [...row.cells].map((cell) => cell.textContent))",
    )
    [row] = [row for row in rows if row[0] == hex(page.large)]
    assert row[1:5] == ["102,400", "large block", "1 of 1", "100 %"]
