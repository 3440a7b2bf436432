"""Draws docs/pictures/report.png: the first screen of the report of `nemf demo`, in a headless Chromium on PATH.

usage: python -m docs.tools.report_picture
"""

import io
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from docs.tools.gallery import PICTURES
from jobs import demo

PICTURE = PICTURES / "report.png"
_SCREEN = (1280, 1000)
_COLOURS = 64  # enough for text, and a fifth of the bytes


def first_screen(page: Path) -> Image.Image:
    """What a browser of _SCREEN pixels shows of an HTML file. Raises FileNotFoundError without Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise FileNotFoundError("needs chromium on PATH: apt-get install chromium")
    shot = page.with_suffix(".png")
    size = "{},{}".format(*_SCREEN)
    options = ("--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={size}", f"--screenshot={shot}")
    subprocess.run([chromium, *options, page.as_uri()], check=True, capture_output=True, timeout=120)
    return Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")


def main() -> None:
    """Run the demo, look at its report, and save the picture."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(demo.run(demo.Config(out=f"{folder}/demo", warps=2)))
        # the paths as if the demo had been started in this folder
        page.write_text(page.read_text("utf-8").replace(f"{folder}/", ""), "utf-8")
        first_screen(page).quantize(_COLOURS).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
