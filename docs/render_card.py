"""The first page of a card as a picture: python docs/render_card.py CARD.md OUT.png (needs pip install pymupdf markdown)."""

import re
import sys
from pathlib import Path

import markdown
import pymupdf
from PIL import Image, ImageChops

WIDTH, HEIGHT, MARGIN = 760, 1500, 28
STYLE = "body {font-family: sans-serif; font-size: 11px} table {border: 1px} th, td {padding: 2px 6px; text-align: left}"


def main(card, out):
    text = re.sub(r"^---\n.*?\n---\n", "", Path(card).read_text(), flags=re.DOTALL)  # front matter
    html = markdown.markdown(text, extensions=["tables", "fenced_code"])
    html = re.sub(r"<img ", '<img width="560" ', html)
    story = pymupdf.Story(html=html, user_css=STYLE, archive=str(Path(card).parent))
    pdf = Path(out).with_suffix(".pdf")
    writer = pymupdf.DocumentWriter(str(pdf))
    more = True
    while more:
        device = writer.begin_page(pymupdf.Rect(0, 0, WIDTH, HEIGHT))
        more, _ = story.place(pymupdf.Rect(MARGIN, MARGIN, WIDTH - MARGIN, HEIGHT - MARGIN))
        story.draw(device)
        writer.end_page()
    writer.close()
    page = pymupdf.open(str(pdf))[0].get_pixmap(dpi=90)
    pdf.unlink()
    picture = Image.frombytes("RGB", (page.width, page.height), page.samples)
    _, _, _, bottom = ImageChops.difference(picture, Image.new("RGB", picture.size, "white")).getbbox()
    picture.crop((0, 0, picture.width, bottom + MARGIN)).quantize(128).save(out, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
