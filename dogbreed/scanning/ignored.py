"""Tell files that lie among photos and are none from files that should be photos. Needs only the standard library."""

from collections.abc import Collection
from pathlib import Path, PurePath

PICTURES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".hif"}
)
HIDDEN, SYSTEM, THUMBNAILS, NOTES, TWINS = (
    "hidden files",
    "files of the operating system",
    "thumbnails of a NAS",
    "notes beside the photos",
    "videos, originals and backups beside their photos",
)
_THUMBNAIL_FOLDERS = frozenset({"@eadir", "@__thumb", "@synoresource"})  # Synology, QNAP
_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "$recycle.bin", "system volume information", "lost+found"}
    | {"#recycle", "@recycle", "#snapshot", "@recently-snapshot", "@tmp", "__pycache__"}
)
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "picasa.ini"})
_NOTES = frozenset(  # Google Takeout, YOLO, Pascal VOC, COCO, Lightroom, Apple, darktable, checksums, ...
    {".json", ".jsonl", ".txt", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".md", ".rst"}
    | {".html", ".htm", ".xmp", ".aae", ".pp3", ".dop", ".thm", ".db", ".log", ".nfo", ".url", ".lnk", ".webloc"}
    | {".md5", ".sha1", ".sha256", ".sfv", ".mat", ".npy", ".npz", ".pkl", ".pickle"}
)
_NAMED_NOTES = frozenset({"readme", "license", "licence", "notice", "changelog"})
_TWINS = frozenset(  # beside a JPEG or PNG of the same name: a live photo's film, its raw file, its HEIC original
    {".heic", ".heif", ".hif"}
    | {".mov", ".mp4", ".m4v", ".avi", ".3gp", ".mkv", ".mts"}
    | {".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw", ".x3f"}
)
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*")
_BACKUPS = ("_original", ".orig", ".bak", "~")  # after the photo's whole name; the first is exiftool's


def folder_kind(name: str) -> str:
    """Return why a folder is ignored; "" if it is not."""
    folded = name.casefold()
    if name.startswith("."):
        return HIDDEN
    if folded in _THUMBNAIL_FOLDERS:
        return THUMBNAILS
    return SYSTEM if folded in _SYSTEM_FOLDERS else ""


def file_kind(name: str, beside: Collection[str] = ()) -> str:
    """Return why a file is ignored; "" if it should be a photo.

    beside: the names of all files in its folder, which show whether a video or a backup belongs to a photo.
    """
    folded = name.casefold()
    path = PurePath(name)
    if name.startswith("."):
        return HIDDEN
    if folded in _SYSTEM_FILES:
        return SYSTEM
    if folded.startswith("synophoto_thumb") or folded.endswith("@synoeastream"):
        return THUMBNAILS
    if path.suffix.casefold() in _NOTES or folded in _NAMED_NOTES:
        return NOTES
    if path.suffix.casefold() in _TWINS and (_photo_of(path.stem, beside) or _heic_of(path, beside)):
        return TWINS
    for ending in _BACKUPS:
        if folded.endswith(ending) and name[: -len(ending)] in beside and is_picture(name[: -len(ending)]):
            return TWINS
    return ""


def is_picture(name: str) -> bool:
    """Return whether a file's name ends like a picture's."""
    return PurePath(name).suffix.casefold() in PICTURES


def begins_like_picture(path: Path) -> bool:
    """Return whether a file that is named like a note begins like a JPEG, PNG, GIF, TIFF or WebP picture."""
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:
        return False
    return start.startswith(_STARTS) or (start[:4] == b"RIFF" and start[8:] == b"WEBP")


def _photo_of(stem: str, beside: Collection[str]) -> bool:
    return any(f"{stem}{suffix}" in beside for suffix in (".jpg", ".JPG", ".jpeg", ".JPEG", ".png", ".PNG"))


def _heic_of(path: PurePath, beside: Collection[str]) -> bool:
    """Return whether a video lies beside the HEIC photo that it belongs to."""
    is_photo = path.suffix.casefold() in PICTURES
    return not is_photo and any(f"{path.stem}{suffix}" in beside for suffix in (".heic", ".HEIC", ".heif", ".HEIF"))


def ignored_before(name: str) -> bool:
    """Return whether earlier versions ignored a file or a folder of this name."""
    return name.startswith(".") or name in ("Thumbs.db", "desktop.ini", "__MACOSX")
