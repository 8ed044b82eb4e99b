"""The leaderboard in a real headless Chromium: sorted, filtered, opened and followed, wide and narrow, light and dark, offline.

Skipped, with the reason, where no chromium is installed or playwright is missing; .ci/run installs both.
"""

import json
import re
import shutil

import pytest
from test_leaderboard import HOSTILE, MEASURED, RDED, changed, selection

from rd3_utils.leaderboard import entries
from rd3_utils.leaderboard import site as leaderboard

CHROMIUM = shutil.which("chromium")
api = pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is not installed")
if CHROMIUM is None:
    pytest.skip("no chromium here; apt-get install chromium, as .ci/run does", allow_module_level=True)


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site of the measured Runs, of one more image set that ties with RDED, and of a hostile one."""
    home = tmp_path_factory.mktemp("board")
    run = json.loads((MEASURED / RDED / "seed0.json").read_text())
    for name, letter, tops in (("dm-ipc10", "a", (0.5161, 0.5172, 0.5196)), (HOSTILE, "b", (0.2, 0.21, 0.22))):
        for seed, top1 in enumerate(tops):
            more = {
                "images__name": name,
                "images__source": name,
                "images__fingerprint": letter * 64,
                "seed": seed,
                "top1": top1,
            }
            where = home / f"more/{letter}/seed{seed}.json"
            where.parent.mkdir(parents=True, exist_ok=True)
            where.write_text(json.dumps(changed(run, **more)))
    (home / "more/c").mkdir()
    (home / "more/c/seed0.json").write_text(json.dumps(changed(run, top1=1.7)))
    leaderboard.build_site(entries.gathered_entries([selection(home), home / "more"]), home / "site")
    return home / "site"


@pytest.fixture
def visit(browser, site):
    """visit("index.html", width=1280, dark=False) -> the page; afterwards: no error, no complaint, nothing fetched."""
    pages, said = [], []

    def go(path="index.html", width=1280, dark=False, script=True):
        context = browser.new_context(
            viewport={"width": width, "height": 844}, color_scheme="dark" if dark else "light", java_script_enabled=script
        )
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on(
            "request", lambda request: request.url.startswith(("file:", "data:")) or said.append(f"asked for {request.url}")
        )
        page.goto((site / path).as_uri())
        if script and path == "index.html":
            page.wait_for_selector("html[data-ready]", state="attached")
        pages.append(context)
        return page

    yield go
    for context in pages:
        context.close()
    assert said == []


def table(page, heading="10 images per class", protocol="rd3-v1"):
    return (
        page.locator("section.table")
        .filter(has=page.get_by_role("heading", name=heading, exact=True))
        .filter(has=page.get_by_role("link", name=protocol, exact=True))
    )


def column(section, place):
    """The texts of a column of a table, rows top to bottom."""
    return [text.strip() for text in section.locator(f"tbody tr[id] td:nth-child({place})").all_inner_texts()]


def test_a_table_is_sorted_by_a_click_and_by_the_keyboard(visit):
    page = visit()
    section = table(page)
    tops = [float(text.split()[0]) for text in column(section, 3)]
    assert tops == sorted(tops, reverse=True) and len(tops) == 4
    header = section.locator("th", has_text="Top-1")
    header.click()
    api.expect(header).to_have_attribute("aria-sort", "ascending")
    assert [float(text.split()[0]) for text in column(section, 3)] == sorted(tops)
    images = section.locator("th", has_text="Images")
    images.get_by_role("button").focus()
    page.keyboard.press("Enter")
    api.expect(images).to_have_attribute("aria-sort", "ascending")
    names = [text.splitlines()[0] for text in column(section, 2)]
    assert names == sorted(names, key=str.lower)


def test_ranks_show_ties(visit):
    """Three draws of random images, 4 points below but 3 points apart, do not tell enough to be a rank of their own."""
    assert column(table(visit()), 1) == ["1-3", "1-3", "1-3", "4"]


def test_tables_are_filtered_by_protocol_images_and_words(visit):
    page = visit()
    shown, status = page.locator("section.table:visible"), page.locator(".shown")
    assert shown.count() == 6 and status.inner_text() == "10 rows in 6 tables"
    page.locator("select[name=protocol]").select_option("hard-label-v1")
    api.expect(shown).to_have_count(3)
    assert page.locator("figure:visible").count() == 1
    page.locator("select[name=ipc]").select_option("50 per class")
    api.expect(shown).to_have_count(1)
    assert status.inner_text() == "1 row in 1 table"
    page.get_by_role("button", name="Reset").click()
    api.expect(shown).to_have_count(6)
    page.get_by_role("searchbox", name="Search").fill("rded")
    api.expect(shown).to_have_count(2)
    assert status.inner_text() == "2 rows in 2 tables"
    page.get_by_role("searchbox", name="Search").fill("no such thing")
    page.get_by_role("button", name="Show all").click()
    api.expect(shown).to_have_count(6)


def test_a_row_opens_and_shows_scores_published_numbers_and_the_command(visit):
    page = visit()
    section = table(page, "1 image per class", "hard-label-v1")
    button = section.get_by_role("button", name="Details of random real images")
    button.focus()
    page.keyboard.press("Enter")
    api.expect(button).to_have_attribute("aria-expanded", "true")
    details = section.locator(".details")
    assert "14.40 ± 2.00 %" in details.inner_text() and "Dataset Condensation" in details.inner_text()
    assert "--distilled random:ipc=1,seed=0 --arms random-hard --seeds 0,1,2" in details.inner_text()
    button.click()
    api.expect(details).to_have_count(0)


def test_a_protocol_is_one_click_away_with_every_knob(visit):
    page = visit()
    table(page).get_by_role("link", name="rd3-v1", exact=True).click()
    assert page.locator("h1").inner_text() == "rd3-v1"
    knob = page.locator("tr", has=page.get_by_text("training.epochs", exact=True)).first
    assert "400" in knob.inner_text() and "stated: 400 for every method" in knob.inner_text()
    page.get_by_role("link", name="cifar10, 10 per class, convnet3, soft labels, fp32").click()
    assert page.locator("article").count() == 4


def test_a_link_leads_to_every_run_of_a_row(visit):
    page = visit()
    section = table(page)
    section.get_by_role("button", name="Details of rded-ipc10").click()
    section.get_by_role("link", name="Every Run, provenance and environment").click()
    row = page.locator("article:target")
    assert "rded-ipc10" in row.locator("h2").inner_text() and row.locator("table.runs tbody tr").count() == 3
    row.get_by_text("Provenance and environment").click()
    assert "f688766bb70ff86078d10299b52cc1903d615575db1334da09e542220850252a" in row.inner_text()


def test_a_point_of_a_plot_leads_to_its_row_even_when_it_is_filtered_away(visit):
    page = visit()
    page.locator("select[name=ipc]").select_option("50 per class")
    point = page.locator("svg.plot a.point", has=page.locator("title", has_text="rded-ipc1,")).first
    target = point.get_attribute("href")
    point.focus()
    page.keyboard.press("Enter")
    row = page.locator(f"tr{target}")
    api.expect(row).to_be_visible()
    assert "rded-ipc1" in row.inner_text()


@pytest.mark.parametrize(
    "path", ["index.html", "not-ranked.html", "protocols/index.html", "protocols/rd3-v1-974086290837.html"]
)
def test_a_phone_shows_it_without_moving_sideways(visit, path):
    page = visit(path, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    if path == "index.html":
        section = table(page)
        assert section.locator("table.board").evaluate("e => e.scrollWidth <= e.parentElement.clientWidth + 1")
        assert "51.73" in section.locator("tbody tr").filter(has_text="rded-ipc10").inner_text()
        assert not section.locator("th", has_text="Random %").is_visible()
        section.get_by_role("button", name="Details of rded-ipc10").click()
        assert "random images" in section.locator(".details").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def luminance(colour):
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_have_contrast(visit, dark):
    """At least 4.5 to 1 (WCAG 2.2, AA) for every kind of text, on the background that is behind it."""
    page = visit(dark=dark)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(paper) < 0.05) == dark
    for selector in (
        "h1",
        ".lead",
        "a.protocol",
        ".under",
        "td.top1",
        ".std",
        ".up",
        "thead th",
        "footer p",
        ".shown",
        "nav a",
        "summary",
    ):
        colours = page.locator(selector).first.evaluate("""e => {
            let behind = e;
            const clear = (e) => /rgba\\(0, 0, 0, 0\\)|color/.test(getComputedStyle(e).backgroundColor);
            while (behind && clear(behind)) behind = behind.parentElement;
            return [getComputedStyle(e).color, getComputedStyle(behind || document.body).backgroundColor];
        }""")
        bright, dim = sorted(map(luminance, colours), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, (selector, colours)
    drawn = page.locator("svg.plot text").first.evaluate("e => getComputedStyle(e.querySelector('tspan') || e).fill")
    assert abs(luminance(drawn) - luminance(paper)) > 0.2


def test_a_hostile_name_is_text_wherever_it_stands(visit):
    page = visit()
    section = table(page)
    assert section.locator(".name", has_text="onerror").inner_text() == HOSTILE
    section.get_by_role("button", name="Details of <img").click()
    page.get_by_role("searchbox", name="Search").fill("onerror")
    section.locator("th", has_text="Images").click()
    assert page.locator("img").count() == 0 and page.locator("script").count() == 1
    page.goto(page.url.replace("index.html", "not-ranked.html"))
    assert "top1 is 1.7, wanted a fraction from 0 to 1" in page.locator("main").inner_text()


def test_it_reads_without_a_script(visit):
    page = visit(script=False)
    assert page.locator("section.table:visible").count() == 6 and not page.locator("form.filters").is_visible()
    assert len(column(table(page), 2)) == 4


def test_everything_that_can_be_pressed_has_a_name(visit):
    page = visit()
    for element in page.locator("button:visible, a:visible, select:visible, input:visible, summary:visible").all():
        name = element.evaluate("""e => e.getAttribute('aria-label') || e.textContent.trim() || (e.labels && e.labels[0] &&
            e.labels[0].textContent.trim()) || e.querySelector('title')?.textContent""")
        assert name, element.evaluate("e => e.outerHTML")
