"""Draw a contact sheet of the breeds: `python -m dogbreed.drawn sheet.png`."""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dogbreed.breeds import BREEDS, display_names
from dogbreed.drawn.scene import picture
from dogbreed.drawn.source import FORMAT, SPLITS
from dogbreed.drawn.traits import TRAITS
from dogbreed.errors import DogBreedError
from dogbreed.run_folder import write_bytes

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    breeds: Sequence[str] = BREEDS, *, columns: int = 14, tile_px: int = 128, seed: int = 0
) -> Image.Image:
    """Draw one picture of each breed with its name below, `columns` per row; RGB, columns * tile_px wide."""
    inner_px, label_px = tile_px - 4, round(tile_px * 0.25)
    font = ImageFont.load_default(size=max(8, tile_px * 0.092))
    sheet = Image.new("RGB", (columns * tile_px, -(-len(breeds) // columns) * (tile_px + label_px)), "white")
    draw = ImageDraw.Draw(sheet)
    names = dict(zip(BREEDS, display_names(BREEDS), strict=True))
    for i, breed in enumerate(breeds):
        row, column = divmod(i, columns)
        in_row = min(columns, len(breeds) - row * columns)
        x, y = column * tile_px + (columns - in_row) * tile_px // 2, row * (tile_px + label_px)
        key = np.random.SeedSequence([FORMAT, seed, BREEDS.index(breed), len(SPLITS)])
        rng = np.random.Generator(np.random.PCG64(key))
        pose = ("stand", "look", "stand", "sit", "look")[i % 5]
        tile = picture(TRAITS[breed], rng, (2 * inner_px, 2 * inner_px), pose=pose, sheet=True)
        sheet.paste(tile.reduce(2), (x + 2, y + 2))
        text = "\n".join(_lines(names[breed], font, tile_px - 4))
        at = (x + tile_px / 2, y + tile_px)
        draw.multiline_text(at, text, fill=(40, 40, 40), font=font, anchor="ma", align="center", spacing=1)
    return sheet


def _lines(text: str, font: Font, width_px: int) -> list[str]:
    """Wrap `text` into as few lines as possible."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width_px:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dogbreed.drawn", description="Draw a contact sheet of the 133 breeds."
    )
    parser.add_argument("sheet", type=Path, help="the output file: .jpg or .png")
    parser.add_argument("--columns", type=int, default=14, help="pictures per row (default: 14)")
    parser.add_argument("--tile-px", type=int, default=128, help="width of a picture with its margin (default: 128)")
    parser.add_argument("--seed", type=int, default=0, help="draw other dogs of the same breeds (default: 0)")
    parser.add_argument("--quality", type=int, default=82, help="of the JPEG (default: 82)")
    args = parser.parse_args(argv)
    if args.sheet.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        parser.error(f"{args.sheet} must end in .jpg or .png")
    if not (
        1 <= args.columns <= len(BREEDS) and 48 <= args.tile_px <= 512 and args.seed >= 0 and 1 <= args.quality <= 95
    ):
        parser.error(f"out of range: columns 1 to {len(BREEDS)}, tile-px 48 to 512, seed from 0, quality 1 to 95")
    sheet = contact_sheet(columns=args.columns, tile_px=args.tile_px, seed=args.seed)
    content = io.BytesIO()
    kind = "PNG" if args.sheet.suffix.lower() == ".png" else "JPEG"
    sheet.save(content, kind, quality=args.quality, optimize=True)
    write_bytes(args.sheet, content.getvalue())
    size = f"{sheet.width} x {sheet.height} px, {args.sheet.stat().st_size / 1000:.0f} kB"
    print(f"{args.sheet}: {len(BREEDS)} breeds, {size}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DogBreedError as error:
        sys.exit(f"{error}")
