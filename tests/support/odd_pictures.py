"""Odd and damaged picture files, made in code: what phones, scanners, broken disks and attackers leave in a folder.

`ODD` maps a kind to the file that shows it and to what should come of it.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin

WIDTH, HEIGHT = 48, 32
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Odd:
    """One kind. good: decodes; None where Pillow's version decides. shows: uint8 [H, W, 3] that it should look like.

    tolerance: the largest mean difference from `shows`, in grey levels. reason: a part of the reason if it is bad.
    """

    content: bytes = field(repr=False)
    good: bool | None = True
    size: tuple[int, int] = (WIDTH, HEIGHT)
    shows: Pixels | None = field(default=None, repr=False)
    tolerance: float = 3.0
    reason: str = ""
    suffix: str = ".jpg"


def upright() -> Pixels:
    """A smooth picture without any symmetry: red grows to the right, green downwards, blue marks the top left."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    red, green = 255 * x / (WIDTH - 1), 255 * y / (HEIGHT - 1)
    blue = 200 * np.exp(-(x**2 + y**2) / 300)
    return np.stack([red, green, blue], -1).round().astype(np.uint8)


def grey() -> Pixels:
    """The same, in grey; [H, W]."""
    return np.asarray(Image.fromarray(upright()).convert("L"))


def as_rgb(values: Pixels) -> Pixels:
    return np.repeat(values[:, :, None], 3, axis=2)


def saved(image: Image.Image | Pixels, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format, **options)
    return file.getvalue()


def jpeg(**options: object) -> bytes:
    return saved(upright(), "JPEG", **{"quality": 95, "subsampling": 0, **options})


def png_chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png_raw(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG that says what it is told to, true or not. rows: filter byte and samples of each row, not compressed."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = png_chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + extra + data + png_chunk(b"IEND", b"")


def png_16_bit(samples: NDArray[np.uint16], colour: int, extra: bytes = b"") -> bytes:
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return png_raw(width, height, 16, colour, rows, extra)


def bomb(side: int) -> bytes:
    """A black square of side x side pixels, 1 bit each, in a thousandth of its size."""
    return png_raw(side, side, 1, 0, bytes(1 + (side + 7) // 8) * side)


def gif_claiming(width: int, height: int) -> bytes:
    """A whole GIF of one colour whose header claims any size."""
    size = struct.pack("<HH", width, height)
    return b"GIF89a" + size + b"\x80\0\0\0\0\0\xff\xff\xff" + b",\0\0\0\0" + size + b"\0\x02\x02\x4c\x01\0;"


def with_segment(picture: bytes, marker: int, content: bytes) -> bytes:
    """A JPEG with one more segment right at its start."""
    return picture[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content + picture[2:]


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def stored_turned(orientation: int) -> Pixels:
    """The upright picture as a camera stores it that was held so (EXIF 2.32, Orientation)."""
    picture = upright()
    steps: dict[int, Callable[[Pixels], Pixels]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),  # to be turned clockwise, so stored turned the other way
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(steps[orientation](picture))


def ycck_jpeg(cmyk: NDArray[np.uint8]) -> bytes:
    """Adobe's YCCK, which Pillow cannot write: the planes are encoded as CMYK and the Adobe marker is changed."""
    ycc = np.asarray(Image.fromarray(np.ascontiguousarray(cmyk[:, :, :3])).convert("YCbCr"))
    planes = np.dstack([255 - ycc, cmyk[:, :, 3]])  # Pillow inverts all four
    content = bytearray(saved(Image.fromarray(planes, "CMYK"), "JPEG", quality=97))
    adobe = content.index(b"Adobe")
    content[adobe + 11] = 2  # transform: YCCK
    return bytes(content)


def riff_size_lies(content: bytes) -> bytes:
    return content[:4] + struct.pack("<I", 2**31) + content[8:]


def flipped(content: bytes, start: float, count: int) -> bytes:
    """`count` bytes turned over from a place on (as a share of the file)."""
    at = int(len(content) * start)
    return content[:at] + bytes(b ^ 0xFF for b in content[at : at + count]) + content[at + count :]


def zip_file() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("dog.txt", "woof")
    return file.getvalue()


def tiff_header(width: int, height: int) -> bytes:
    """A TIFF of 1-byte grey in one strip, claiming any size."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 200), (279, 4, 64)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    return head.ljust(200, b"\0") + bytes(64)


def circular_tiff() -> bytes:
    """Its list of pages leads back to the first."""
    content = bytearray(tiff_header(8, 8))
    content[10 + 7 * 12 : 14 + 7 * 12] = struct.pack("<I", 8)
    return bytes(content)


def bmp_top_down() -> bytes:
    content = bytearray(saved(upright()[::-1], "BMP"))
    content[22:26] = struct.pack("<i", -HEIGHT)
    return bytes(content)


def bmp_rle() -> bytes:
    """8-bit run-length coded: each row one run, its grey the row's number times 8."""
    palette = b"".join(bytes((n, n, n, 0)) for n in range(256))
    rows = b"".join(bytes((WIDTH, 8 * (HEIGHT - 1 - row), 0, 0)) for row in range(HEIGHT)) + b"\0\1"
    offset = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 8, 1, len(rows), 2835, 2835, 256, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + info + palette + rows


def _kinds() -> dict[str, Odd]:
    picture = upright()
    image = Image.fromarray(picture)
    plain = jpeg()
    greys = grey()
    alpha = np.tile(np.linspace(0, 255, WIDTH).round().astype(np.uint8), (HEIGHT, 1))
    on_white = (picture * (alpha[:, :, None] / 255) + 255 * (1 - alpha[:, :, None] / 255)).round().astype(np.uint8)
    grey_on_white = as_rgb((greys * (alpha / 255) + 255 * (1 - alpha / 255)).round().astype(np.uint8))
    rgba, la = np.dstack([picture, alpha]), np.dstack([greys, alpha])
    left_clear = picture.copy()
    left_clear[:, : WIDTH // 2] = 255
    cleared = picture.copy()
    cleared[:, : WIDTH // 2] = (1, 2, 3)
    palette = image.quantize(64)
    palette_clear = Image.fromarray((np.arange(WIDTH) // 12 * np.ones((HEIGHT, 1))).astype(np.uint8), "P")
    palette_clear.putpalette([250, 0, 0, 0, 250, 0, 0, 0, 250, 90, 90, 90])
    stripes = np.asarray([(255, 255, 255), (0, 250, 0), (0, 0, 250), (90, 90, 90)], np.uint8)[
        np.arange(WIDTH) // 12 * np.ones((HEIGHT, 1), int)
    ]
    half_clear_stripes = stripes.copy()
    half_clear_stripes[:, :12] = (252, 127, 127)  # 250 and 0 at an alpha of 128
    ramp = np.linspace(0, 65535, WIDTH).round().astype(np.uint16) * np.ones((HEIGHT, 1), np.uint16)
    ramp_8 = as_rgb((ramp / 257).round().astype(np.uint8))
    cmyk = np.dstack([255 - picture, np.full((HEIGHT, WIDTH), 40, np.uint8)])
    cmyk_rgb = np.asarray(Image.fromarray(cmyk, "CMYK").convert("RGB"))
    other = Image.fromarray(255 - picture)
    lab = ImageCms.profileToProfile(
        image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "wag " * 5000, zip=True)
    huge_text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(64 << 20), 9))
    png = saved(picture, "PNG")
    truncated_jpegs = {
        f"JPEG cut off at {share:.0%}": Odd(plain[: int(len(plain) * share)], good=False, reason=reason)
        for share, reason in ((0.01, "damaged"), (0.3, ""), (0.6, "truncated"), (0.9, "truncated"))
    }
    truncated = {
        f"{format} cut off in the middle": Odd(whole[: len(whole) * 6 // 10], good=False, suffix=f".{format.lower()}")
        for format, whole in {
            "PNG": png,
            "WebP": saved(image, "WEBP", quality=90),
            "TIFF": saved(image, "TIFF"),
            "compressed TIFF": saved(image, "TIFF", compression="tiff_lzw"),
            "BMP": saved(image, "BMP"),
            "PPM": saved(image, "PPM"),
        }.items()
    }
    turned = {
        f"JPEG with EXIF orientation {n}": Odd(
            saved(stored_turned(n), "JPEG", quality=95, subsampling=0, exif=exif(n)), shows=picture
        )
        for n in range(1, 9)
    }
    return {
        # nothing, or no picture
        "empty file": Odd(b"", good=False, reason="empty (0 bytes)"),
        "one byte": Odd(b"\xff", good=False, reason="not a photo"),
        "text": Odd(b"I am a dog.\n" * 50, good=False, reason="not a photo of a known format"),
        "web page": Odd(b"<!DOCTYPE html><html><body>404</body></html>", good=False, reason="not a photo"),
        "zip": Odd(zip_file(), good=False, reason="not a photo"),
        "zeros": Odd(bytes(5000), good=False, reason="not a photo"),
        "SVG": Odd(b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', good=False, suffix=".svg"),
        "PDF": Odd(saved(image, "PDF"), good=False, reason="not a photo", suffix=".pdf"),
        "PostScript": Odd(saved(image, "EPS"), good=False, reason="not a photo", suffix=".eps"),
        "PostScript named .jpg": Odd(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", good=False),
        "HEIC": Odd(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400), good=False, suffix=".heic"),
        "ICO": Odd(saved(image, "ICO", sizes=[(16, 16)]), good=False, reason="not a photo", suffix=".ico"),
        "JPEG start and nothing else": Odd(b"\xff\xd8\xff\xe0", good=False),
        "PNG start and nothing else": Odd(b"\x89PNG\r\n\x1a\n", good=False),
        # cut off or damaged
        **truncated_jpegs,
        "progressive JPEG cut off": Odd(jpeg(progressive=True)[:-400], good=False, reason="truncated"),
        "JPEG without its end marker": Odd(plain[:-2], good=None, shows=picture),
        **truncated,
        "GIF cut off": Odd(saved(image, "GIF")[:1000], good=False, suffix=".gif"),
        "JPEG with wrong bits in the middle": Odd(flipped(plain, 0.6, 20), good=None),
        "JPEG with zeros in the middle": Odd(plain[:1200] + bytes(200) + plain[1400:], good=None),
        "JPEG whose Huffman tables are gone": Odd(plain.replace(b"\xff\xc4", b"\xff\xfe"), good=None),
        "JPEG that claims arithmetic coding": Odd(plain.replace(b"\xff\xc0", b"\xff\xc9", 1), good=None),
        "lossless JPEG's header": Odd(plain.replace(b"\xff\xc0", b"\xff\xc3", 1), good=None),
        "PNG with a wrong checksum": Odd(flipped(png, 0.97, 3), good=False, suffix=".png"),
        "PNG with a wrong header checksum": Odd(png[:29] + b"\0\0\0\0" + png[33:], good=False, suffix=".png"),
        "PNG without pixels": Odd(png_raw(8, 8, 8, 2, b""), good=False, suffix=".png"),
        "PNG of width 0": Odd(png_raw(0, 8, 8, 2, b"\0" * 8), good=False, suffix=".png"),
        "WebP that claims two gigabytes": Odd(riff_size_lies(saved(image, "WEBP")), good=None, suffix=".webp"),
        "TIFF with its list of pages in a circle": Odd(circular_tiff(), size=(8, 8), suffix=".tif"),
        # too large
        "PNG that claims 60000 x 60000": Odd(png_raw(60000, 60000, 8, 2, b"\0" * 99), good=False, reason="pixels"),
        "GIF that claims 60000 x 60000": Odd(gif_claiming(60000, 60000), good=False, reason="pixels", suffix=".gif"),
        "TIFF that claims 60000 x 60000": Odd(tiff_header(60000, 60000), good=False, reason="pixels", suffix=".tif"),
        "bomb of 13000 x 13000 pixels": Odd(bomb(13000), good=False, reason="13000 x 13000 pixels", suffix=".png"),
        "PNG with a text chunk that unpacks to 64 MB": Odd(
            png[:33] + huge_text + png[33:], good=None, shows=picture, suffix=".png"
        ),
        # shapes
        "1 x 1": Odd(saved(picture[:1, :1], "PNG"), size=(1, 1), shows=picture[:1, :1], suffix=".png"),
        "1 x 5000": Odd(saved(np.full((5000, 1, 3), 99, np.uint8), "JPEG"), size=(1, 5000)),
        "5000 x 1": Odd(saved(np.full((1, 5000, 3), 99, np.uint8), "JPEG"), size=(5000, 1)),
        # names that lie
        "PNG named .jpg": Odd(png, shows=picture, tolerance=0),
        "JPEG without extension": Odd(plain, shows=picture, suffix=""),
        "JPEG named .txt": Odd(plain, shows=picture, suffix=".txt"),
        # colour models
        "CMYK JPEG": Odd(saved(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=95), shows=cmyk_rgb),
        "YCCK JPEG": Odd(ycck_jpeg(cmyk), shows=cmyk_rgb),
        "CMYK TIFF": Odd(saved(Image.fromarray(cmyk, "CMYK"), "TIFF"), shows=cmyk_rgb, tolerance=0, suffix=".tif"),
        "LAB TIFF": Odd(saved(lab, "TIFF"), shows=picture, suffix=".tif"),
        "YCbCr TIFF": Odd(saved(image.convert("YCbCr"), "TIFF"), shows=picture, suffix=".tif"),
        "grey JPEG": Odd(saved(greys, "JPEG", quality=95), shows=as_rgb(greys)),
        "1-bit PNG": Odd(
            saved(Image.fromarray(greys > 99), "PNG"), shows=as_rgb((greys > 99) * np.uint8(255)), tolerance=0
        ),
        "palette PNG": Odd(saved(palette, "PNG"), shows=picture, tolerance=12, suffix=".png"),
        "palette PNG with one transparent colour": Odd(
            saved(palette_clear, "PNG", transparency=0), shows=stripes, tolerance=0, suffix=".png"
        ),
        "palette PNG with an alpha for each colour": Odd(
            saved(palette_clear, "PNG", transparency=b"\x80\xff\xff\xff"), shows=half_clear_stripes, suffix=".png"
        ),
        "GIF with transparency": Odd(
            saved(palette_clear, "GIF", transparency=0), shows=stripes, tolerance=0, suffix=".gif"
        ),
        "RGBA PNG": Odd(saved(rgba, "PNG"), shows=on_white, tolerance=1, suffix=".png"),
        "LA PNG": Odd(saved(Image.fromarray(la, "LA"), "PNG"), shows=grey_on_white, tolerance=1, suffix=".png"),
        "RGB PNG with a transparent colour": Odd(
            saved(Image.fromarray(cleared), "PNG", transparency=(1, 2, 3)), shows=left_clear, tolerance=0, suffix=".png"
        ),
        "lossless WebP with alpha": Odd(
            saved(rgba, "WEBP", lossless=True, exact=True), shows=on_white, tolerance=1, suffix=".webp"
        ),
        "lossy WebP with alpha": Odd(saved(rgba, "WEBP", quality=95), shows=on_white, tolerance=6, suffix=".webp"),
        "16-bit grey PNG": Odd(png_16_bit(ramp, 0), shows=ramp_8, tolerance=0, suffix=".png"),
        "16-bit RGB PNG": Odd(png_16_bit(np.dstack([ramp] * 3), 2), shows=ramp_8, tolerance=1, suffix=".png"),
        "16-bit RGBA PNG": Odd(
            png_16_bit(np.dstack([ramp] * 3 + [np.full_like(ramp, 65535)]), 6), shows=ramp_8, tolerance=1, suffix=".png"
        ),
        "16-bit grey TIFF": Odd(saved(Image.fromarray(ramp), "TIFF"), shows=ramp_8, tolerance=0, suffix=".tif"),
        "32-bit TIFF of 16-bit values": Odd(
            saved(Image.fromarray(ramp.astype(np.int32)), "TIFF"), shows=ramp_8, tolerance=0, suffix=".tif"
        ),
        "32-bit TIFF of 8-bit values": Odd(
            saved(Image.fromarray(greys.astype(np.int32)), "TIFF"), shows=as_rgb(greys), tolerance=0, suffix=".tif"
        ),
        "float TIFF from 0 to 1": Odd(
            saved(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF"), shows=ramp_8, tolerance=0, suffix=".tif"
        ),
        "float TIFF with NaN and infinity": Odd(
            saved(Image.fromarray(np.array([[np.nan, np.inf, -np.inf, 7]], np.float32)), "TIFF"),
            size=(4, 1),
            suffix=".tif",
        ),
        "PPM": Odd(saved(image, "PPM"), shows=picture, tolerance=0, suffix=".ppm"),
        "16-bit PGM": Odd(
            b"P5\n%d %d\n65535\n" % (WIDTH, HEIGHT) + ramp.astype(">u2").tobytes(),
            shows=ramp_8,
            tolerance=1,
            suffix=".pgm",
        ),
        "1-bit BMP": Odd(saved(Image.fromarray(greys > 99), "BMP"), shows=as_rgb((greys > 99) * np.uint8(255))),
        "top-down BMP": Odd(bmp_top_down(), shows=picture, tolerance=0, suffix=".bmp"),
        "run-length coded BMP": Odd(
            bmp_rle(),
            shows=as_rgb(np.repeat(np.arange(HEIGHT, dtype=np.uint8)[:, None] * 8, WIDTH, 1)),
            tolerance=0,
            suffix=".bmp",
        ),
        # more than one picture
        "animated GIF": Odd(
            saved(image, "GIF", save_all=True, append_images=[other], duration=50),
            shows=picture,
            tolerance=12,
            suffix=".gif",
        ),
        "animated WebP": Odd(
            saved(image, "WEBP", save_all=True, append_images=[other], lossless=True),
            shows=picture,
            tolerance=1,
            suffix=".webp",
        ),
        "animated PNG": Odd(
            saved(image, "PNG", save_all=True, append_images=[other]), shows=picture, tolerance=0, suffix=".png"
        ),
        "TIFF of several pages": Odd(
            saved(image, "TIFF", save_all=True, append_images=[other.resize((9, 9))]),
            shows=picture,
            tolerance=0,
            suffix=".tif",
        ),
        "MPO": Odd(saved(image, "MPO", save_all=True, append_images=[other], quality=95), shows=picture, suffix=".mpo"),
        # metadata
        **turned,
        "PNG with EXIF orientation 6": Odd(
            saved(stored_turned(6), "PNG", exif=exif(6)), shows=picture, tolerance=0, suffix=".png"
        ),
        "WebP with EXIF orientation 8": Odd(
            saved(stored_turned(8), "WEBP", lossless=True, exif=exif(8)), shows=picture, tolerance=1, suffix=".webp"
        ),
        "TIFF with orientation 5": Odd(
            saved(stored_turned(5), "TIFF", tiffinfo={274: 5}), shows=picture, tolerance=0, suffix=".tif"
        ),
        "MPO with EXIF orientation 3": Odd(
            saved(
                stored_turned(3),
                "MPO",
                save_all=True,
                append_images=[other],
                quality=95,
                exif=exif(3),
            ),
            shows=picture,
            suffix=".mpo",
        ),
        "JPEG with EXIF orientation 77": Odd(jpeg(exif=exif(77)), shows=picture),
        "JPEG with broken EXIF": Odd(with_segment(plain, 0xE1, b"Exif\0\0" + b"\xde\xad" * 40), shows=picture),
        "JPEG with EXIF that points outside": Odd(
            with_segment(plain, 0xE1, b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(20)), shows=picture
        ),
        "JPEG with EXIF of the largest size": Odd(
            with_segment(plain, 0xE1, b"Exif\0\0" + exif(1)[6:].ljust(65500, b"\0")), shows=picture
        ),
        "JPEG with a megabyte of comments": Odd(
            plain[:2] + (b"\xff\xfe\xff\xff" + b"w" * 65533) * 16 + plain[2:], shows=picture
        ),
        "JPEG with a broken colour profile": Odd(jpeg(icc_profile=b"no profile" * 30000), shows=picture),
        "JPEG of 0 dots per inch": Odd(jpeg(dpi=(0, 0)), shows=picture),
        "PNG with compressed text": Odd(saved(image, "PNG", pnginfo=text), shows=picture, tolerance=0, suffix=".png"),
        # unusual, but right
        "progressive JPEG": Odd(jpeg(progressive=True), shows=picture),
        "JPEG with restart markers": Odd(jpeg(restart_marker_blocks=1), shows=picture),
        "JPEG with coarse colours": Odd(jpeg(subsampling=2), shows=picture, tolerance=6),
        "JPEG with garbage after its end": Odd(plain + b"\0garbage\xff" * 300, shows=picture),
        "PNG with garbage after its end": Odd(png + b"garbage" * 300, shows=picture, tolerance=0, suffix=".png"),
        "JPEG that is a zip as well": Odd(plain + zip_file(), shows=picture),
        "JPEG with PostScript in a comment": Odd(with_segment(plain, 0xFE, b"%!PS-Adobe-3.0\nshowpage"), shows=picture),
    }


ODD = _kinds()
