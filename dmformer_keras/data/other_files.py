"""What a file is that is no image which can be read: by its first bytes, and by its name."""

from pathlib import PurePosixPath

from dmformer_keras.data.trees import quoted

HEAD_BYTES = 64

_BRANDS = {
    b"avif": "an AVIF image",
    b"avis": "an AVIF image",
    b"heic": "a HEIC image",
    b"heix": "a HEIC image",
    b"heim": "a HEIC image",
    b"heis": "a HEIC image",
    b"hevc": "a HEIC image",
    b"hevx": "a HEIC image",
    b"mif1": "a HEIF image",
    b"msf1": "a HEIF image",
    b"crx ": "a raw photograph",
}
_SIGNATURES = (
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"8BPS", "a Photoshop image"),
    (b"<svg", "an SVG drawing"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"version https://git-lfs", "a pointer of Git LFS, not fetched yet,"),
)
_IMAGE_SIGNATURES = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"GIF87a", ".gif"),
    (b"GIF89a", ".gif"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)
_FOREIGN_ENDINGS = {
    ".heic": "a HEIC image",
    ".heif": "a HEIF image",
    ".hif": "a HEIF image",
    ".avif": "an AVIF image",
    ".jxl": "a JPEG XL image",
    ".jp2": "a JPEG 2000 image",
    ".j2k": "a JPEG 2000 image",
    ".psd": "a Photoshop image",
    ".svg": "an SVG drawing",
    ".tga": "a TGA image",
    ".ppm": "a PPM image",
    ".pgm": "a PGM image",
} | dict.fromkeys(
    (".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"), "a raw photograph"
)
# Never images, whose content need not be looked at.
_OTHER_ENDINGS = {
    ".txt", ".md", ".rst", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".log",
    ".html", ".py", ".ipynb", ".npy", ".npz", ".mat", ".pkl", ".db", ".ini", ".aae", ".xmp",
    ".mp4", ".mov", ".avi", ".zip", ".gz", ".tar",
}  # fmt: skip


def unread_kind(encoded):
    """What bytes are that no image decoder here reads: a str with an article, such as "a HEIC
    image"; None where that is not known.

    Example:

    >>> unread_kind(b"\\0\\0\\0\\x18ftypheic\\0\\0\\0\\0mif1heic")
    'a HEIC image'
    """
    head = encoded[:HEAD_BYTES]
    if head[4:8] == b"ftyp":
        brands = [head[start : start + 4] for start in range(8, len(head) - 3, 4)]
        known = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
        plain = [kind for kind in known if kind != "a HEIF image"]
        return (plain or known or ["a film"])[0]
    start = head.lstrip(b"\xef\xbb\xbf \r\n\t")
    for signature, kind in _SIGNATURES:
        if head.startswith(signature) or start.lower().startswith(signature):
            return kind
    return None


def problem_of_unknown_name(path, head):
    """Why a file that is no image by its name might be one nevertheless; returns a str, a sentence;
    None where the file is no image, and may be passed over.

    Example:

    >>> problem_of_unknown_name("cat/1", lambda: b"GIF89a")
    "'cat/1' is an image whose name does not say so; call it .gif."
    """
    ending = PurePosixPath(path).suffix.lower()
    if ending in _OTHER_ENDINGS:
        return None
    content = head()
    kind = unread_kind(content)
    if kind is None or "image" not in kind:
        kind = _FOREIGN_ENDINGS.get(ending)
    if kind is not None:
        return f"{quoted(path)} is {kind}, which is not read; convert it to JPEG or PNG."
    ending = next((end for start, end in _IMAGE_SIGNATURES if content.startswith(start)), None)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        ending = ".webp"
    if ending is None:
        return None
    return f"{quoted(path)} is an image whose name does not say so; call it {ending}."
