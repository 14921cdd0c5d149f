import json

import pytest
from browser import CHROMIUM, Browser
from report_runs import HOSTILE, write_samples

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is on this machine")

ROWS = "[...document.querySelectorAll('#rows-1 tbody tr')]"
HEADS = "[...document.querySelectorAll('#rows-1 thead th')]"
METHODS = f"{ROWS}.filter(row => !row.hidden).map(row => row.cells[0].textContent.trim())"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture
def opened(table, browser):
    """The page of three methods at three seeds, and of one with a hostile name."""
    table.add("bc", 0, 95.0, metrics={"nll": float("nan")})
    write_samples(table.add(HOSTILE, 0, 80.0, status="done", notices=[HOSTILE]))
    output = table.folder.parent / f"{HOSTILE.replace('/', '')[:60]}.html"
    table.write(output)
    browser.events.clear()
    browser.open(output)
    return browser


def column(page, heading):
    """The place of a column by the beginning of its heading."""
    return page.evaluate(f"{HEADS}.findIndex(head => head.textContent.startsWith('{heading}'))")


def shown(page, heading):
    return page.evaluate(f"{HEADS}[{column(page, heading)}].checkVisibility()")


def press_head(page, heading):
    page.evaluate(f"{HEADS}[{column(page, heading)}].querySelector('button').focus()")
    page.press("Enter", 13, "\r")
    return page.evaluate(f"{HEADS}[{column(page, heading)}].getAttribute('aria-sort')")


def test_the_page_runs_no_strangers_script_logs_nothing_and_asks_for_nothing(opened):
    page = opened
    assert page.evaluate("document.querySelectorAll('[onerror], img:not([src^=data])').length") == 0
    assert any("<img src=x" in name for name in page.evaluate(METHODS))
    assert page.complaints() == []
    (own,) = page.requests()
    assert own.startswith("file:")


def test_a_heading_sorts_by_keyboard_both_ways_with_missing_values_last(opened):
    page = opened
    assert press_head(page, "nll") == "ascending"
    assert page.evaluate(METHODS)[-1] == "bc"
    assert press_head(page, "top1") == "descending"
    assert page.evaluate(METHODS)[:3] == ["bc", "cutmix", "mixup"]
    assert press_head(page, "top1") == "ascending"
    assert page.evaluate(METHODS)[-1] == "bc"
    assert page.evaluate(f"{HEADS}.filter(head => head.hasAttribute('aria-sort')).length") == 1
    assert press_head(page, "method") == "ascending"
    assert page.evaluate(METHODS)[-3:] == ["cutmix", "erm", "mixup"]


def test_p_values_are_sorted_as_numbers(opened):
    page = opened
    assert press_head(page, "p") == "ascending"
    assert page.evaluate(METHODS)[:2] == ["cutmix", "mixup"]


def test_words_in_the_filter_leave_the_rows_that_hold_all_of_them(opened):
    page = opened
    page.evaluate("document.querySelector('input[type=search]').focus()")
    for letter in "MIX":
        page.press(letter, ord(letter), letter)
    assert sorted(page.evaluate(METHODS)) == ["cutmix", "mixup"]
    assert page.evaluate("document.querySelector('[role=status]').textContent") == "2 of 5 rows"


def test_columns_are_chosen_by_keyboard(opened):
    page = opened
    assert shown(page, "nll")
    assert not shown(page, "fidelity")
    page.evaluate("document.querySelector('form summary').click()")
    for heading in ("nll", "fidelity"):
        place = column(page, heading)
        page.evaluate(f"document.querySelector('form [value=\"{place}\"]').focus()")
        page.press(" ", 32, " ")
    assert not shown(page, "nll")
    assert shown(page, "fidelity")


def test_a_row_leads_to_its_provenance_unfolded(opened):
    page = opened
    page.evaluate("document.querySelector('#rows-1 tbody a').click()")
    opened_parts = "[...document.querySelectorAll('details[open] summary')]"
    page.evaluate("new Promise(done => setTimeout(done, 0))")
    assert page.evaluate(f"{opened_parts}.map(part => part.textContent)") == ["bc"]


def test_light_and_dark_change_places(opened):
    page = opened
    colour = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(colour)
    page.evaluate("document.getElementById('theme').click()")
    assert page.evaluate(colour) != before
    page.evaluate("document.getElementById('theme').click()")
    assert page.evaluate(colour) == before


def test_the_records_can_be_downloaded_as_json(opened):
    page = opened
    kept = page.evaluate("document.getElementById('records').textContent")
    assert len(json.loads(kept)) == 11
    link = "document.getElementById('download')"
    assert page.evaluate(f"{link}.checkVisibility()")
    assert page.evaluate(f"{link}.href").startswith("blob:")


def test_nothing_is_wider_than_a_narrow_window_but_what_scrolls(opened):
    page = opened
    size = {"height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.call("Emulation.setDeviceMetricsOverride", width=400, **size)
    try:
        width = page.evaluate("document.documentElement.scrollWidth")
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")
    assert width <= 400


def test_paper_shows_what_is_folded(opened):
    page = opened
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.querySelectorAll('details[open]').length") == 0
