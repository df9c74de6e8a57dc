"""The report in a real browser: it sorts and filters, says nothing to the console, asks nobody, and fits a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.report import main
from tests.fixtures.chromium import Page, browser
from tests.fixtures.timed_rounds import e_tasks, write_timed

TABLE = "configurations-0"
CELLS = "Array.from(document.querySelectorAll('#{table} tbody tr'), row => row.cells[{column}].textContent)"
SHOWN = f"Array.from(document.querySelectorAll('#{TABLE} tbody tr')).filter(row => row.offsetHeight > 0).length"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    tasks = e_tasks()
    tasks[1].energy_j = None  # one configuration without energy: an empty cell sorts last, whichever way
    tasks.append(tasks[0].__class__("e20", epochs=20, accuracy=0.91, time_s=100.0, energy_j=9.0))
    write_timed(root, tasks)
    assert main([str(root), "-o", str(root / "report.html")]) == 0
    return root / "report.html"


@pytest.fixture
def page(report: Path) -> Iterator[Page]:
    with browser() as opened:
        opened.look(1280, 900)
        opened.open(report)
        yield opened


def column(page: Page, name: str) -> list[str]:
    headings = page.evaluate(f"Array.from(document.querySelectorAll('#{TABLE} th'), th => th.innerText.trim())")
    number = [heading.split("\n")[0].strip() for heading in headings].index(name)
    return list(page.evaluate(CELLS.format(table=TABLE, column=number)))


def click(page: Page, name: str) -> None:
    buttons = f"Array.from(document.querySelectorAll('#{TABLE} th button'))"
    page.evaluate(f"{buttons}.find(button => button.textContent === {name!r}).click()")


def test_headings_sort_numbers_as_numbers_and_what_is_missing_last(page: Page) -> None:
    click(page, "time (s)")
    assert column(page, "time (s)") == ["16.00", "18.00", "32.00", "200.0"]
    click(page, "time (s)")
    assert column(page, "time (s)") == ["200.0", "32.00", "18.00", "16.00"]
    click(page, "energy (J)")
    assert column(page, "energy (J)") == ["18.00", "60.00", "80.00", ""]
    click(page, "energy (J)")
    assert column(page, "energy (J)") == ["80.00", "60.00", "18.00", ""]
    click(page, "configuration")  # E=5 before E=20: numbers within text count as numbers
    assert [label.split(",")[0] for label in column(page, "configuration")] == ["E=1", "E=5", "E=5", "E=20"]
    sorted_by = f"Array.from(document.querySelectorAll('#{TABLE} th[aria-sort]'), th => th.innerText.trim())"
    assert len(page.evaluate(sorted_by)) == 1


def test_the_field_filters_rows_and_counts_them(page: Page) -> None:
    field = f"document.querySelector('.filter[data-table={TABLE}] input')"
    count = f"document.querySelector('.filter[data-table={TABLE}] output').textContent"
    for typed, rows, said in (("tau=none e=5", 1, "1 of 4 rows"), ("zzz", 0, "0 of 4 rows"), ("", 4, "4 rows")):
        page.evaluate(f"{field}.focus(); {field}.value = ''")
        page.evaluate(f"{field}.dispatchEvent(new Event('input'))")
        if typed:
            page.send("Input.insertText", text=typed)
        assert (page.evaluate(SHOWN), page.evaluate(count)) == (rows, said)


def test_the_console_is_silent_and_nothing_leaves_the_page(page: Page, report: Path) -> None:
    click(page, "accuracy")
    assert page.messages == []
    assert {address.split(":")[0] for address in page.requests} == {"file", "data"}
    assert [address for address in page.requests if address.startswith("file")] == [report.as_uri()]
    images = "Array.from(document.images).every(image => image.complete && image.naturalWidth > 300)"
    assert page.evaluate(f"document.images.length >= 5 && {images}")


def test_it_fits_a_phone_in_light_and_dark(page: Page, report: Path) -> None:
    colours = []
    for dark in (False, True):
        page.look(360, 740, dark=dark)
        page.open(report)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(255, 255, 255)", "rgb(20, 24, 29)"]


def test_it_prints_without_what_only_a_screen_needs(page: Page) -> None:
    page.send("Emulation.setEmulatedMedia", media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('.filter')).display") == "none"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(page.send("Page.printToPDF")["data"]) > 10_000


def test_a_script_that_slipped_in_would_not_run(page: Page, report: Path, tmp_path: Path) -> None:
    """Damage the page by hand: what escaping keeps out, the policy stops once more."""
    injected = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"></header>"
    damaged = tmp_path / "damaged.html"
    damaged.write_text(report.read_text().replace("</header>", injected))
    page.open(damaged)
    assert page.evaluate("document.title") == "What it cost: digits"
    assert sum("Content Security Policy" in message for message in page.messages) >= 2
    click(page, "accuracy")  # ours still does
    assert column(page, "accuracy")[0] == "0.7000"
