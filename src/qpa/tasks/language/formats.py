"""What a file seems to be that is no UTF-8 text, and how to make text of it."""

import shlex

UNPACK, CONVERT, EXPORT = "unpack it: {}", "if so: iconv -f {} -t UTF-8 {} > TEXT", "give its text alone"
DATASET = "data=hub data.hub=FOLDER reads the folder it lies in"

MAGIC = (  # how a file begins, what it then is, what to do with it
    (b"PAR1", "Parquet", DATASET),
    (b"ARROW1", "Arrow", DATASET),
    (b"\xff\xff\xff\xff", "an Arrow stream", DATASET),
    (b"\x1f\x8b", "gzip", UNPACK.format("gunzip {}")),
    (b"\x28\xb5\x2f\xfd", "Zstandard", UNPACK.format("unzstd {}")),
    (b"\xfd7zXZ\0", "xz", UNPACK.format("unxz {}")),
    (b"BZh", "bzip2", UNPACK.format("bunzip2 {}")),
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


def is_text(text: str) -> bool:
    """Whether what could be read as UTF-8 is text: a text file has no NULs (POSIX), and PDF and tar can be all ASCII."""
    return "\0" not in text and not text.startswith("%PDF-")


def describe(content: bytes, file: str, at: int) -> str:
    """What a file seems to be and the way out, in a few words.

    Args:
        content: all of it.
        file: its name, for the way out.
        at: the first byte that is no UTF-8 text.
    """
    file = shlex.quote(file)
    for start, name, way_out in MAGIC:
        if content.startswith(start):
            return f"looks like {name}; {way_out.format(file)}"
    if content.startswith(b"ustar", TAR_AT):
        return f"looks like a tar archive; {UNPACK.format(f'tar -xf {file}')}"
    for start, name in MARKS:
        if content.startswith(start):
            return f"looks like {name}; {CONVERT.format(name, file)}"
    begin = max(0, at - SAMPLE // 2) // 4 * 4  # whole characters, also of UTF-32
    return _described_sample(content[begin : begin + SAMPLE], file, f"byte {content[at]:#04x} at {at:,}")


def _described_sample(sample: bytes, file: str, place: str) -> str:
    from chardet import detect

    controls = set(sample) & set(NO_TEXT)
    if controls == {0} and 4 * sample.count(0) < len(sample):  # in UTF-16 about half of all bytes are NULs, or others are controls
        return f"has NULs ({place}); without them: tr -d '\\000' < {file} > TEXT"
    encoding = str(detect(sample)["encoding"] or "").upper()
    if encoding.startswith(("UTF-16", "UTF-32")):
        return f"looks like {encoding} without a mark; {CONVERT.format(encoding, file)}"
    if controls:
        return f"looks like a binary file ({place}); {EXPORT}"
    decoded = sample.decode(errors="replace")
    if 2 * decoded.count("\N{REPLACEMENT CHARACTER}") < sum(character > "\x7f" for character in decoded):
        return f"is UTF-8 but for {place}, perhaps more; without such bytes: iconv -c -f UTF-8 -t UTF-8 {file} > TEXT"
    name = "ISO-8859-1 or WINDOWS-1252" if encoding in ("WINDOWS-1252", "ISO-8859-1", "") else encoding
    return f"looks like {name} ({place}); {CONVERT.format(name.split()[-1], file)}"
