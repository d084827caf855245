"""Requests that a server on the internet gets: odd pictures, damaged ones, bombs, lies, and no pictures at all.

`HOSTILE` maps a kind to the function that makes the request and to the statuses that are right for it. Made in code,
when they are needed: some are large.
"""

import base64
import json
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.support.odd_pictures import ODD, Odd, jpeg, png_chunk, png_raw, saved, upright, with_segment, zip_file

OK, BAD = (200,), (400, 413, 415, 422)
EITHER = (*OK, *BAD)


class Hostile(NamedTuple):
    body: Callable[[], bytes]
    expected: tuple[int, ...]
    content_type: str = "application/x-image"


def _odd(odd: Odd) -> Hostile:
    """A kind of picture that training takes; the server takes fewer formats."""
    if odd.good is None:
        return Hostile(lambda: odd.content, EITHER)
    is_served = odd.content.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n")) or odd.content[8:12] == b"WEBP"
    return Hostile(lambda: odd.content, OK if odd.good and is_served else BAD)


def _clouds(width: int, height: int, mode: str = "RGB") -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (64, 64, len(mode)), dtype=np.uint8)
    return Image.fromarray(coarse, mode if mode != "RGB" else None).resize((width, height), Image.Resampling.BILINEAR)


def _rows(width: int, height: int, pixel: bytes) -> bytes:
    return (b"\0" + pixel * width) * height


def _many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last pass over all pixels comes again and again."""
    picture = saved(Image.new("RGB", (side, side)), "JPEG", progressive=True, quality=5)
    last = picture.rindex(b"\xff\xda")
    return picture[:-2] + picture[last:-2] * scans + b"\xff\xd9"


def _claiming(picture: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    at = picture.index(b"\xff\xc0") + 5
    return picture[:at] + struct.pack(">HH", height, width) + picture[at + 4 :]


def _webp_claiming(width: int, height: int) -> bytes:
    """A WebP with an extended header of any size, and the pixels of a small one."""
    simple = saved(upright(), "WEBP", quality=80)[12:]
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    chunks = b"VP8X" + struct.pack("<I", 10) + bytes(4) + size + simple
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def _png_bomb_in(kind: bytes, prefix: bytes) -> bytes:
    png = saved(upright(), "PNG")
    return png[:33] + png_chunk(kind, prefix + zlib.compress(bytes(200 << 20), 9)) + png[33:]


def _json(value: object) -> Callable[[], bytes]:
    return lambda: json.dumps(value).encode()


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _hostile() -> dict[str, Hostile]:
    plain, png = jpeg(), saved(upright(), "PNG")
    image = Image.fromarray(upright())
    frames = [Image.fromarray(np.roll(upright(), n, axis=1)) for n in range(100)]
    other_formats = {
        f"a {name} picture": Hostile(lambda content=content: content, BAD)  # type: ignore[misc]
        for name, content in {
            "GIF": saved(image, "GIF"),
            "BMP": saved(image, "BMP"),
            "TIFF": saved(image, "TIFF"),
            "PPM": saved(image, "PPM"),
            "ICNS": b"icns" + struct.pack(">I", 8),
            "TGA": saved(image, "TGA"),
            "PCX": saved(image, "PCX"),
            "DDS": saved(image, "DDS"),
            "SGI": saved(image, "SGI"),
            "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(200),
            "AVIF": b"\0\0\0\x1cftypavif" + bytes(200),
            "FITS": b"SIMPLE  =                    T".ljust(2880),
            "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30000, 30000, 8, 3) + bytes(12),
            "GD": b"\xff\xfe" + struct.pack(">HH", 30000, 30000) + bytes(1100),
            "WMF": b"\xd7\xcd\xc6\x9a" + bytes(100),
            "XBM": b"#define im_width 60000\n#define im_height 60000\nstatic char im_bits[] = {\n0x00};\n",
            "FLI": struct.pack("<IHHHHHH", 200, 0xAF11, 1, 30000, 30000, 8, 0) + bytes(200),
            "MPEG": b"\0\0\1\xb3" + bytes(100),
            "BLP": b"BLP2" + struct.pack("<IBBBBII", 1, 1, 0, 0, 0, 30000, 30000) + bytes(2000),
        }.items()
    }
    bodies = {
        "a pickle": b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
        "an executable": b"\x7fELF" + bytes(500),
        "an SVG that reads a file": b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
        "an ImageMagick script": b'push graphic-context\nimage over 0,0 1,1 "|id > /tmp/x"\npop graphic-context\n',
        "a URL": b"http://169.254.169.254/latest/meta-data/",
        "a path": b"/etc/passwd",
        "a form": b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + plain + b"\r\n--x--",
        "base64 instead of bytes": base64.b64encode(plain),
        "a JPEG behind a byte order mark": b"\xef\xbb\xbf" + plain,
        "a JPEG behind a line break": b"\n" + plain,
    }
    heavy = {
        "JPEG of 48 megapixels": Hostile(lambda: saved(_clouds(8000, 6000), "JPEG", quality=40), OK),
        "JPEG of 51 megapixels": Hostile(lambda: saved(Image.new("L", (8000, 6400)), "JPEG"), BAD),
        "CMYK JPEG of 12 megapixels": Hostile(lambda: saved(_clouds(4032, 3024, "CMYK"), "JPEG", quality=40), OK),
        "progressive JPEG of 12 megapixels": Hostile(
            lambda: saved(_clouds(4032, 3024), "JPEG", quality=60, progressive=True), OK
        ),
        "progressive JPEG of 25 megapixels": Hostile(
            lambda: saved(_clouds(5000, 5000), "JPEG", quality=20, progressive=True, subsampling=0), EITHER
        ),
        "JPEG of 31000 x 400 in CMYK": Hostile(lambda: saved(_clouds(31000, 400, "CMYK"), "JPEG", quality=10), OK),
        "JPEG of 65500 x 700": Hostile(lambda: saved(Image.new("L", (65500, 700)), "JPEG"), BAD),
        "JPEG of 100 passes over a megapixel": Hostile(lambda: _many_scans(1000, 100), EITHER),
        "JPEG of 5000 passes": Hostile(lambda: _many_scans(400, 5000), EITHER),
        "JPEG of 30 passes over 9 megapixels": Hostile(lambda: _many_scans(3000, 20), BAD),
        "JPEG that claims 65500 x 65500": Hostile(lambda: _claiming(plain, 65500, 65500), BAD),
        "JPEG that claims 7000 x 7000": Hostile(lambda: _claiming(plain, 7000, 7000), EITHER),
        "JPEG that claims no height": Hostile(lambda: _claiming(plain, 48, 0), BAD),
        "PNG of 12 megapixels with alpha": Hostile(
            lambda: png_raw(3535, 3535, 8, 6, _rows(3535, 3535, b"\x55\xaa\x10\x80")), OK
        ),
        "PNG of 12 megapixels, grey with alpha": Hostile(
            lambda: png_raw(3535, 3535, 8, 4, _rows(3535, 3535, b"\x55\xaa")), OK
        ),
        "PNG of 12 megapixels, 16 bits": Hostile(
            lambda: png_raw(3535, 3535, 16, 6, _rows(3535, 3535, b"\x55\xaa" * 4)), OK
        ),
        "PNG of 12 megapixels, 16 bits of grey": Hostile(
            lambda: png_raw(3535, 3535, 16, 0, _rows(3535, 3535, b"\x55\xaa")), OK
        ),
        "PNG of 16 megapixels, all black": Hostile(lambda: png_raw(4000, 4000, 1, 0, bytes(501) * 4000), BAD),
        "PNG whose pixels unpack to 200 MB more": Hostile(lambda: png_raw(8, 8, 8, 2, bytes(200 << 20)), EITHER),
        "PNG with a profile of 200 MB": Hostile(lambda: _png_bomb_in(b"iCCP", b"x\0\0"), EITHER),
        "PNG with a text of 200 MB": Hostile(lambda: _png_bomb_in(b"zTXt", b"Comment\0\0"), EITHER),
        "PNG with a hundred thousand chunks": Hostile(
            lambda: png[:33] + png_chunk(b"tEXt", b"a\0b") * 100_000 + png[33:], EITHER
        ),
        "PNG that claims 2^31 pixels each way": Hostile(lambda: png_raw(2**31 - 1, 2**31 - 1, 8, 2, b""), BAD),
        "WebP of 9 megapixels with alpha": Hostile(
            lambda: saved(_clouds(3000, 3000, "RGBA"), "WEBP", quality=20, method=0), OK
        ),
        "WebP of 9.6 megapixels": Hostile(lambda: saved(Image.new("L", (3100, 3100)), "WEBP", method=0), BAD),
        "WebP that claims 16383 x 16383": Hostile(lambda: _webp_claiming(16383, 16383), BAD),
        "WebP that claims 2^24 x 2^24": Hostile(lambda: _webp_claiming(2**24, 2**24), BAD),
        "WebP of 100 frames": Hostile(
            lambda: saved(image, "WEBP", save_all=True, append_images=frames, lossless=True, method=0), OK
        ),
        "PNG of 100 frames": Hostile(lambda: saved(image, "PNG", save_all=True, append_images=frames), OK),
        "a body of 7 MB": Hostile(lambda: plain + bytes(7_000_000), BAD),
        "a body of 40 MB": Hostile(lambda: plain + bytes(40_000_000), BAD),
        "a body as large as it may be": Hostile(lambda: plain + bytes(6 * 1024 * 1024 - len(plain)), OK),
        "a PNG that is a web page as well": Hostile(
            lambda: png[:33] + png_chunk(b"tEXt", b"a\0<script>alert(1)</script>") + png[33:], OK
        ),
        "a JPEG that is a script as well": Hostile(lambda: with_segment(plain, 0xFE, b"*/=alert(1);/*"), OK),
        "a JPEG that is an archive as well": Hostile(lambda: plain + zip_file(), OK),
        "a JPEG with XMP that nests entities": Hostile(
            lambda: with_segment(
                plain,
                0xE1,
                b"http://ns.adobe.com/xap/1.0/\0<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>"
                + b"".join(b"<!ENTITY %c '%s'>" % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9))
                + b"]><x>&j;</x>",
            ),
            OK,
        ),
    }
    of_json = {
        "JSON with a picture": (_json({"image": _b64(plain)}), OK),
        "JSON with three": (_json({"images": [_b64(plain), _b64(png), _b64(plain)]}), OK),
        "JSON with lines of base64": (_json({"image": base64.encodebytes(plain).decode()}), OK),
        "JSON in UTF-16": (lambda: json.dumps({"image": _b64(plain)}).encode("utf-16"), OK),
        "JSON with a bad one among good": (_json({"images": [_b64(plain), _b64(b"no"), "%"]}), BAD),
        "JSON with 17": (_json({"images": [_b64(plain)] * 17}), BAD),
        "JSON with none": (_json({"images": []}), BAD),
        "JSON with one and several": (_json({"image": _b64(plain), "images": [_b64(plain)]}), BAD),
        "JSON with a number for a picture": (_json({"image": 7}), BAD),
        "JSON with lists of lists": (_json({"images": [[_b64(plain)]]}), BAD),
        "JSON with an empty picture": (_json({"image": ""}), BAD),
        "JSON with a URL": (_json({"url": "http://169.254.169.254/latest/meta-data/"}), BAD),
        "JSON with a URL for a picture": (_json({"image": "https://example.invalid/dog.jpg"}), BAD),
        "JSON with a data URL": (_json({"image": "data:image/jpeg;base64," + _b64(plain)}), OK),
        "JSON with a data URL of a page": (_json({"image": "data:text/html,<script>alert(1)</script>"}), BAD),
        "JSON with a path": (_json({"image": "/etc/passwd"}), BAD),
        "JSON with half a surrogate": (lambda: b'{"image": "\\ud800", "\\udfff": 1}', BAD),
        "JSON with a null byte": (lambda: b'{"image": "\\u0000"}', BAD),
        "JSON that ends too early": (lambda: b'{"image": "', BAD),
        "JSON with a bomb inside": (
            lambda: json.dumps({"image": _b64(ODD["bomb of 13000 x 13000 pixels"].content)}).encode(),
            BAD,
        ),
        "JSON nested a million deep": (lambda: b"[" * 1_000_000, BAD),
        "JSON nested in objects": (lambda: b'{"image":' * 200_000, BAD),
        "JSON with a number of a million digits": (lambda: b'{"top": ' + b"9" * 1_000_000 + b"}", BAD),
        "JSON with top of NaN": (lambda: b'{"image": "' + _b64(plain).encode() + b'", "top": NaN}', BAD),
        "JSON with top of true": (_json({"image": _b64(plain), "top": True}), BAD),
        "JSON with top of 10^9": (_json({"image": _b64(plain), "top": 10**9}), BAD),
        "JSON with a heat map of 1": (_json({"image": _b64(plain), "heat_map": 1}), BAD),
        "JSON with a million keys": (lambda: json.dumps(dict.fromkeys(map(str, range(300_000)))).encode(), BAD),
        "JSON of bytes that are no text": (lambda: b"\xff\xfe\xfd{}", BAD),
        "JSON that is a string": (_json("dog"), BAD),
        "JSON that is null": (_json(None), BAD),
        "JSON that is empty": (lambda: b"", BAD),
        "a JPEG that says it is JSON": (lambda: plain, BAD),
    }
    types = {
        "a form's type": (plain, "application/x-www-form-urlencoded", BAD),
        "a type of 60 kB": (plain, "image/jpeg; x=" + "y" * 60_000, EITHER),
        "a type that is none": (plain, "\x7f\x00"[:1], BAD),
        "a GIF's type": (plain, "image/gif", OK),
        "an HTML type": (plain, "text/html", BAD),
        "JPEG that says it is PNG": (plain, "image/png", OK),
        "a type with parameters": (plain, "Image/JPEG; charset=binary", OK),
    }
    return {
        **{f"odd: {kind}": _odd(odd) for kind, odd in ODD.items()},
        **other_formats,
        **{kind: Hostile(lambda body=body: body, BAD) for kind, body in bodies.items()},  # type: ignore[misc]
        **heavy,
        **{kind: Hostile(body, expected, "application/json") for kind, (body, expected) in of_json.items()},
        **{
            f"type: {kind}": Hostile(lambda body=body: body, expected, content_type)  # type: ignore[misc]
            for kind, (body, content_type, expected) in types.items()
        },
    }


HOSTILE = _hostile()
