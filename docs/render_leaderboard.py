"""Pictures of the leaderboard of some Runs, by a headless chromium: python docs/render_leaderboard.py measured OUT_FOLDER

Writes leaderboard-desktop.png, leaderboard-dark.png and leaderboard-phone.png (needs pip install playwright, and chromium).
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from PIL import Image
from playwright.sync_api import sync_playwright

from rd3_utils.leaderboard import gather
from rd3_utils.leaderboard import site as leaderboard

VIEWS = {  # name -> (width, height, scale, colour scheme, name of the row that is open)
    "desktop": (1280, 1400, 1, "light", "rded-ipc1"),
    "dark": (1240, 1120, 1, "dark", None),
    "phone": (390, 1240, 1.5, "light", "rded-ipc1"),
}


def main(results, out):
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        leaderboard.build_site(gather.gather([results]), Path(folder) / "site")
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (width, height, scale, scheme, row) in VIEWS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale, color_scheme=scheme)
            page.goto((Path(folder) / "site/index.html").as_uri())
            page.wait_for_selector("html[data-ready]", state="attached")
            if row:
                page.get_by_role("button", name=f"Details of {row}", exact=True).first.click()
                page.mouse.move(0, 0)
                page.evaluate("scrollTo(0, 0)")
            else:
                page.locator(".plots").evaluate("e => scrollTo(0, e.offsetTop - 180)")
            page.evaluate("document.activeElement.blur()")
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            picture.save(Path(out) / f"leaderboard-{name}.png", optimize=True)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
