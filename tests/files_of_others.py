# SPDX-License-Identifier: Apache-2.0
"""Files that no program of pyrel's wrote, as tests need them."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

import numpy as np

BIG = 10**20


def npy(header: str, content: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """Make an .npy file with a header, whatever it says."""
    text = header.encode("utf8", "surrogatepass")
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + content


def header(descr: Any = "<f4", shape: Any = (2, 3), order: Any = False) -> str:
    """Return the text of a header."""
    return f"{{'descr': {descr!r}, 'fortran_order': {order!r}, 'shape': {shape!r}, }}\n"


def npz(content: bytes | None = None, name: str = "x.npy", **changes: int) -> bytes:
    """Make an archive with one member, some numbers of its entry in the directory changed."""
    if content is None:
        content = npy(header(), bytes(24))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    data = bytearray(buffer.getvalue())
    entry = data.rindex(b"PK\x01\x02")
    places = {"flags": (8, "<H"), "method": (10, "<H"), "crc": (16, "<I"), "packed": (20, "<I"),
              "size": (24, "<I"), "offset": (42, "<I")}  # fmt: skip
    for what, value in changes.items():
        place, form = places[what]
        struct.pack_into(form, data, entry + place, value)
        local = {"flags": 6, "method": 8, "crc": 14, "packed": 18, "size": 22}.get(what)
        if local is not None:
            struct.pack_into(form, data, local, value)
    return bytes(data)


NPY = {
    "enormous": npy(header(shape=(BIG,))),
    "enormous and empty": npy(header(shape=(0, BIG))),
    "enormous product": npy(header(shape=(2**40, 2**40))),
    "negative": npy(header(shape=(-1,)), bytes(24)),
    "negative product": npy(header(shape=(-2, -3)), bytes(24)),
    "cut off": npy(header(), bytes(23)),
    "comma": npy(header(descr=",")),
    "minus signs": npy(header(shape=(2,)).replace("(2,)", "-" * 9000 + "2")),
    "brackets": npy("(" * 9000),
    "nested": npy(header(descr="<f4").replace("'<f4'", "[" * 90 + "]" * 90)),
    "digits": npy(header().replace("(2, 3)", "(" + "9" * 5000 + ",)")),
    "no type": npy(header(descr="magic")),
    "type of a number": npy(header(descr=7)),
    "objects": npy(header(descr="|O"), bytes(48)),
    "no bytes": npy(header(descr="<U0", shape=(9999999999999,))),
    "void": npy(header(descr="|V0", shape=(9999999999999,))),
    "fields of objects": npy(header(descr=[("a", "|O")]), bytes(48)),
    "wide item": npy(header(descr="|V2147483647")),
    "overlong item": npy(header(descr=f"|S{BIG}")),
    "fields in fields": npy(header(descr=[("a", "<f4", (2**31, 2**31))])),
    "shape of floats": npy(header(shape=(2.0, 3.0)), bytes(24)),
    "shape of text": npy(header(shape="23"), bytes(24)),
    "65 dimensions": npy(header(shape=(1,) * 65), bytes(4)),
    "other keys": npy("{'descr': '<f4'}\n"),
    "no mapping": npy("[]\n"),
    "code": npy("__import__('os').abort()\n"),
    "surrogate": npy(header(descr="\ud800"), version=(2, 0)),
    "NUL": npy(header().replace("f4", "f\0")),
    "ninth version": npy(header(), bytes(24), version=(9, 0)),
    "long header": npy(header() + " " * 60_000, bytes(24)),
    "header beyond the end": b"\x93NUMPY\x02\x00\xff\xff\xff\xffx",
    "no header": b"\x93NUMPY",
}  # fmt: skip


def directory_beyond_the_end() -> bytes:
    """Make an archive whose end says so of its directory, so that members begin before 0."""
    data = bytearray(npz())
    (offset,) = struct.unpack_from("<I", data, len(data) - 6)
    struct.pack_into("<I", data, len(data) - 6, offset + 1000)
    return bytes(data)


NPZ = {
    "encrypted": npz(flags=1),
    "strongly encrypted": npz(flags=0x41),
    "patched": npz(flags=0x20),
    "wrong checksum": npz(crc=1),
    "unknown compression": npz(method=99),
    "shrunk": npz(method=1),
    "not bz2": npz(method=12),
    "not lzma": npz(method=14),
    "stored though deflated": npz(method=0),
    "too small": npz(size=3),
    "begins beyond the end": npz(offset=2**31),
    "begins before the start": directory_beyond_the_end(),
    "no array": npz(b"some text"),
    "empty": npz(b""),
    "objects": npz(NPY["objects"]),
    "enormous": npz(NPY["enormous"]),
    "enormous and packed": npz(npy(header(shape=(2**40,)), bytes(9)), size=0xFFFFFFFE),
    "minus signs": npz(NPY["minus signs"]),
    "empty archive": b"PK\x05\x06" + bytes(18),
    "cut archive": npz()[:-30],
    "no directory": b"PK\x03\x04" + bytes(40),
    "control characters": npz(b"", "\x1b[31m\u202e.npy"),
}  # fmt: skip


def idx(sizes: tuple[int, ...], content: bytes = b"", kind: int = 8) -> bytes:
    """Make an IDX file, whatever its header says."""
    head = bytes([0, 0, kind, len(sizes)])
    return head + struct.pack(f">{len(sizes)}I", *sizes) + content


def array(seed: int = 0) -> np.ndarray[Any, Any]:
    """Draw samples for a test to mutate the file of."""
    return np.random.default_rng(seed).normal(size=(3, 4, 7)).astype(np.float32)
