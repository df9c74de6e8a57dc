"""The page in a real browser during a real run: it moves by itself, its console is silent, and it asks nobody else."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from harness.live.board import Board
from harness.live.serving import served
from tests.fixtures.chromium import Page, browser
from tests.harness.live.boards import make_board, told_board
from tests.harness.running import Bench, wait_until


@pytest.fixture
def page() -> Iterator[Page]:
    with browser() as opened:
        opened.look(1280, 900)
        yield opened


def text(page: Page, id_: str) -> str:
    return str(page.evaluate(f"document.getElementById({id_!r}).innerText"))


def shown(page: Page, id_: str, words: str) -> str:
    """What an element says once it says these words."""
    return str(wait_until(lambda: words in (found := text(page, id_)) and found))


@pytest.mark.timeout(170)
def test_a_run_is_followed_while_it_goes_on(page: Page, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(rounds=400, idle_s=0.2, more="[relaunch]\nattempts = 0\n")  # who is gone stays gone
    with bench.running("--live", "127.0.0.1:0") as process:
        assert process.stderr is not None
        address = process.stderr.readline().removeprefix("live: ").strip()
        page.visit(address)
        shown(page, "devices", "fitting")
        shown(page, "tasks", "running")
        points = "Number(document.getElementById('accuracy').dataset.points)"
        first = wait_until(lambda: page.evaluate(points))
        wait_until(lambda: page.evaluate(points) > first)
        wait_until(lambda: page.evaluate("document.querySelectorAll('#power path.series').length") == 3)
        wait_until(lambda: page.evaluate("document.querySelectorAll('#devices svg.spark').length") == 2)
        wait_until(lambda: page.evaluate("document.querySelectorAll('#timeline rect.bar.fit').length") >= 2)
        assert re.search(r"± [\d.]+ J \((counter|estimated|integrated)\)", shown(page, "tasks", " J ("))
        host = bench.run_folders()[-1] / "devices" / "slow.json"
        pid = int(re.findall(r'"pid": (\d+)', host.read_text())[0])
        os.kill(pid, signal.SIGKILL)
        assert "killed by SIGKILL" in shown(page, "devices", "gone")
        assert re.search(r"slow in (fit|evaluate), round \d+: ", shown(page, "failures", "slow in "))
        process.send_signal(signal.SIGINT)
        shown(page, "status", "the run is over")
        process.communicate(timeout=60)
        assert process.returncode == 130
    assert page.messages == []
    assert {urlsplit(one).netloc for one in page.requests if not one.startswith("data:")} == {urlsplit(address).netloc}


def test_nothing_that_a_device_says_becomes_markup(page: Page) -> None:
    with served("127.0.0.1:0", told_board()) as url:
        page.visit(url)
        assert "<script>" in shown(page, "failures", "slow in fit")
        assert "<script>" in text(page, "messages")
        assert "missing" in text(page, "devices")
        assert page.evaluate("document.scripts.length") == 1
        assert page.evaluate("document.title") == 'running: lab "one", short'
        assert page.messages == []


def test_markup_that_slipped_in_would_not_run(page: Page) -> None:
    """Damage the page by hand: what textContent keeps out, the policy stops once more."""
    with served("127.0.0.1:0", told_board()) as url:
        page.visit(url)
        shown(page, "failures", "slow in fit")
        slipped = "<img src=x onerror=\\\"document.title = 'taken'\\\">"
        page.evaluate(f'document.getElementById("title").innerHTML = "{slipped}"')
        wait_until(lambda: sum("Content Security Policy" in message for message in page.messages) >= 1)
        assert page.evaluate("document.title") != "taken"


def test_the_token_comes_from_the_fragment_and_leaves_the_address(
    page: Page, capsys: pytest.CaptureFixture[str]
) -> None:
    with served("0.0.0.0:0", told_board()) as url:
        token = capsys.readouterr().err.partition("#token=")[2].split()[0]
        local = f"http://127.0.0.1:{urlsplit(url).port}/"
        page.visit(local)
        shown(page, "status", "needs the token")
        page.visit("about:blank")
        page.visit(f"{local}#token={token}")
        shown(page, "status", "round 2 of 2")
        assert page.evaluate("location.href") == local
        page.visit(local)  # again, in the same tab
        shown(page, "status", "round 2 of 2")
        assert not any(token in address for address in page.requests)


def test_a_state_is_looked_at_alone_and_the_choice_stays(page: Page) -> None:
    board: Board = make_board(*(f"pi-{n}" for n in range(200)))
    board.present({f"pi-{n}" for n in range(198)})
    board.gone("pi-199", "no route to host")
    with served("127.0.0.1:0", board) as url:
        page.visit(url)
        shown(page, "states", "waiting 198")
        rows = "document.querySelectorAll('#devices tbody tr').length"
        assert page.evaluate(rows) == 200
        page.evaluate("document.querySelector('#states [data-state=gone]').focus()")
        page.evaluate("document.activeElement.click()")
        assert page.evaluate(rows) == 1
        board.present({"pi-0"})
        shown(page, "states", "gone 198")
        assert page.evaluate(rows) == 198, "and not all"
        assert page.evaluate("document.activeElement.dataset.state") == "gone"


def test_it_fits_a_phone_in_light_and_dark(page: Page) -> None:
    colours = []
    with served("127.0.0.1:0", told_board()) as url:
        for dark in (False, True):
            page.look(360, 740, dark=dark)
            page.visit(url)
            shown(page, "devices", "fast")
            assert page.evaluate("document.documentElement.scrollWidth") == 360
            colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(255, 255, 255)", "rgb(20, 24, 29)"]
