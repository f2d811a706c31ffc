"""What a file seems to be that is no UTF-8 text, and how to make text of it."""

import codecs
import shlex
from typing import IO

UNPACK, CONVERT, EXPORT = "unpack it: {}", "if so: data.encoding={0}, or iconv -f {0} -t UTF-8 {1} > TEXT", "give its text alone"
RENAME = "let its name end in {}"
NAME_ENCODING = "data.encoding names another encoding"

MAGIC = (  # how a file begins, what it then is, what to do with it
    (b"PAR1", "Parquet", RENAME.format(".parquet")),
    (b"ARROW1", "Arrow", RENAME.format(".arrow")),
    (b"\xff\xff\xff\xff", "an Arrow stream", RENAME.format(".arrow")),
    (b"\x1f\x8b", "gzip", RENAME.format(".gz")),
    (b"\x28\xb5\x2f\xfd", "Zstandard", RENAME.format(".zst")),
    (b"\xfd7zXZ\0", "xz", RENAME.format(".xz")),
    (b"BZh", "bzip2", RENAME.format(".bz2")),
    (b"\x04\x22\x4d\x18", "LZ4", UNPACK.format("unlz4 {}")),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip", UNPACK.format("7z x {}")),
    (b"PK\3\4", "a zip archive (docx, xlsx, epub and torch's files are such too)", UNPACK.format("unzip {}")),
    (b"%PDF-", "PDF", "give its text: pdftotext {}"),
    (b"SQLite format 3\0", "SQLite", EXPORT),
    (b"\xd0\xcf\x11\xe0", "an old Office document", EXPORT),
    *((b"\x80" + bytes([protocol]), "a Python pickle", EXPORT) for protocol in range(2, 6)),
    (b"\x93NUMPY", "NumPy", EXPORT),
    (b"\x89HDF", "HDF5", EXPORT),
    (b"GGUF", "a GGUF model", EXPORT),
    *((start, "an image", EXPORT) for start in (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")),
    (b"RIFF", "an image, sound or film", EXPORT),
)
MARKS = ((b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))
TAR_AT = 257  # where a tar archive says so
NO_TEXT = bytes({*range(32)} - {*b"\t\n\r\f\b\x1a\x1b"})  # what no encoding but UTF-16 and UTF-32 has in text
SAMPLE = 1 << 16  # bytes that are looked at


def is_utf8(encoding: str) -> bool:
    """By any of its names."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def marked(head: bytes) -> str | None:
    """The encoding that a mark at a file's start names; what has none may be any."""
    return next((name for mark, name in MARKS if head.startswith(mark)), None)


def begins_text(head: bytes) -> bool:
    """Whether a file's start is UTF-8 text: a text file has no NULs (POSIX), and PDF and tar can be all ASCII."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head and not head.startswith(b"%PDF-")


def look(stream: IO[bytes], file: str) -> tuple[str, bool]:
    """What a file seems to be that is no UTF-8 text and the way out, in a few words; and whether that is so of all of it.

    Args:
        stream: it, from its start.
        file: its name, for the way out.
    """
    file = shlex.quote(file)
    head, sample, at = _bad_place(stream)
    for start, name, way_out in MAGIC:
        if head.startswith(start):
            return f"looks like {name}; {way_out.format(file)}", True
    if head.startswith(b"ustar", TAR_AT):
        return f"looks like a tar archive; {UNPACK.format(f'tar -xf {file}')}", True
    return _described_sample(sample, file, at)


def _bad_place(stream: IO[bytes]) -> tuple[bytes, bytes, str]:
    """How a file begins, what lies around its first byte that is no UTF-8 text, and which that is."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    head = before = stream.read(SAMPLE)
    chunk, begin = before, 0  # `before` is what lies before and in the chunk, from `begin` on
    while chunk:
        end = begin + len(before)
        try:
            decoder.decode(chunk)
            at = end - len(chunk) + chunk.index(b"\0") if b"\0" in chunk else None
        except UnicodeDecodeError as error:
            at = end - len(error.object) + error.start
        following = stream.read(SAMPLE)
        if at is None and not following and decoder.getstate()[0]:
            at = end - len(decoder.getstate()[0])  # the last character is cut off
        if at is not None:
            around = before + following
            first = max(0, at - begin - SAMPLE // 2) // 4 * 4  # whole characters, also of UTF-32
            return head, around[first : first + SAMPLE], f"byte {around[at - begin]:#04x} at {at:,}"
        before, begin, chunk = chunk + following, end - len(chunk), following
    return head, head, "its start"


def _described_sample(sample: bytes, file: str, place: str) -> tuple[str, bool]:
    from chardet import detect

    controls = set(sample) & set(NO_TEXT)
    if controls == {0} and 4 * sample.count(0) < len(sample):  # in UTF-16 about half of all bytes are NULs, or others are controls
        return f"has NULs ({place}); without them: tr -d '\\000' < {file} > TEXT", False
    encoding = str(detect(sample)["encoding"] or "").upper()
    if encoding.startswith(("UTF-16", "UTF-32")):
        return f"looks like {encoding} without a mark; {CONVERT.format(encoding, file)}", True
    if controls:
        return f"looks like a binary file ({place}); {EXPORT}", True
    decoded = sample.decode(errors="replace")
    if 2 * decoded.count("\N{REPLACEMENT CHARACTER}") < sum(character > "\x7f" for character in decoded):
        return f"is UTF-8 but for {place}, perhaps more; without such bytes: iconv -c -f UTF-8 -t UTF-8 {file} > TEXT", False
    name = "ISO-8859-1 or WINDOWS-1252" if encoding in ("WINDOWS-1252", "ISO-8859-1", "") else encoding
    return f"looks like {name} ({place}); {CONVERT.format(name.split()[-1], file)}", True
