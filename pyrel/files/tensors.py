# SPDX-License-Identifier: Apache-2.0
"""Files of tensors with a description: safetensors, written whole or not at all.

The description is one JSON text in the metadata of the safetensors header. It names the kind of the
file, the version of its format, the pyrel that wrote it, and a checksum of the tensors and of the
rest of the description, for safetensors itself notices a changed length but not a changed number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import safetensors.torch
import torch
from torch import Tensor

from pyrel._core import version
from pyrel.files.atomic import write_whole
from pyrel.files.foreign import ForeignFileError, parsing, read_whole, shown

Kind = Literal["model", "checkpoint", "program", "set of patterns", "fit of patterns"]
# Of models and checkpoints, version 1 had no checksum of the description.
FORMAT_VERSIONS: dict[Kind, int] = {
    "model": 2,
    "checkpoint": 2,
    "program": 1,
    "set of patterns": 1,
    "fit of patterns": 1,
}
_KEY = "pyrel"
_NOT_WHOLE = (
    "is not a whole safetensors file ({error}); it was truncated, or pyrel never wrote it: copy it "
    "again or write it anew"
)
_OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before archives


def write_tensors(
    path: Path, kind: Kind, tensors: Mapping[str, Tensor], content: Mapping[str, Any]
) -> None:
    """Write a file in one step: whoever looks finds the old file or the new one, both whole.

    Parameters
    ----------
    path : Path
        Its folder must exist.
    kind, tensors, content
        As for :func:`dump_tensors`.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    write_whole(path, dump_tensors(kind, tensors, content))


def dump_tensors(kind: Kind, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> bytes:
    """Return what :func:`write_tensors` writes.

    Parameters
    ----------
    kind : str
        One of `FORMAT_VERSIONS`.
    tensors : mapping
        Copied to the CPU.
    content : mapping
        JSON-able entries of the description.
    """
    # Clones, because safetensors refuses tensors that share memory, as tied weights do.
    owned = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    header = {
        **content,
        "kind": kind,
        "format_version": FORMAT_VERSIONS[kind],
        "pyrel_version": version(),
    }
    described = json.loads(json.dumps(header, allow_nan=False))  # as a reader will see it
    text = json.dumps(described | {"checksum": _checksum(owned, described)}, sort_keys=True)
    return safetensors.torch.save(owned, metadata={_KEY: text})


def read_tensors(
    path: Path, kind: Kind, limits: Sizes | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of :func:`write_tensors`.

    Returns
    -------
    tensors : dict
    content : dict
        The description.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is truncated, changed, foreign, of another kind or of another format.
    """
    return load_tensors(read_whole(path), kind, path, limits)


def load_tensors(
    data: bytes, kind: Kind, source: Path | str, limits: Sizes | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what :func:`dump_tensors` was given; ``source`` is what a message calls the bytes.

    Raises
    ------
    ValueError
        As of :func:`read_tensors`.
    """
    tensors, content = _parsed(data, source, limits)
    _check_format(source, content, kind)
    with parsing(source, "has a damaged description ({error}); write it anew"):
        checksum = _checksum(tensors, content)
    if content.get("checksum") != checksum:
        raise ValueError(
            f"{shown(source)} was changed after pyrel wrote it (the checksum of its tensors and "
            f"description is wrong); copy it again or write it anew"
        )
    return tensors, content


def read_kind(path: Path, limits: Sizes | None = None) -> str:
    """Return the kind of a file of :func:`write_tensors`; errors as of :func:`read_tensors`."""
    return str(_parsed(read_whole(path), path, limits)[1]["kind"])


def _parsed(
    data: bytes, path: Path | str, limits: Sizes | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with parsing(path, _NOT_WHOLE):
        try:
            if limits is not None:
                _check_size(data, path, limits)
            tensors = safetensors.torch.load(data)
        except ForeignFileError:
            raise
        except Exception as error:
            if foreign := _file_of_torch(data):
                raise ForeignFileError(f"{shown(path)} is {foreign}") from error
            raise
    return tensors, _description(path, data)


class Sizes(Protocol):
    """Largest sizes of a description."""

    def check(self, name: str, value: int, what: str) -> None:
        """Raise ValueError if there are more than a limit of that name."""


def _check_size(data: bytes, path: Path | str, limits: Sizes) -> None:
    """Refuse a header that would take much memory to parse."""
    text = memoryview(data)[8 : 8 + int.from_bytes(data[:8], "little")]
    with parsing(path, "is too large: {error}"):
        limits.check("text", len(text), "bytes of description")
        header = text.tobytes()
        limits.check("entries", sum(header.count(mark) for mark in b",[{"), "entries")
    named = len(json.loads(header))
    with parsing(path, "is too large: {error}"):
        limits.check("tensors", named - 1, "tensors")


def _file_of_torch(data: bytes) -> str | None:
    """Say which of torch's files this is, and how to explain its model; None if it is none.

    They are archives, but for old ones of torch.save, and are told apart by the names in them.
    """
    archive = data.startswith(b"PK")
    if archive and b"/archive_format" in data:
        return (
            "a program of torch.export.save, not a file of pyrel; if you trust it, give "
            "torch.export.load(path) to pyrel.Explainer, or the file, named .pt2, to pyrel explain "
            "--trust"
        )
    if archive and b"/constants.pkl" in data:
        return (
            "a model of torch.jit.save, not a file of pyrel; make the torch.nn.Module that it was "
            "made of, with the same state_dict(), and give that to pyrel.Explainer"
        )
    if (archive and b"/data.pkl" in data) or data.startswith(_OLD_TORCH):
        return (
            "a file of torch.save, not a file of pyrel; make the model, give it the weights with "
            "load_state_dict(torch.load(path, weights_only=True)), and the model to pyrel.Explainer"
        )
    return None


def _description(path: Path | str, data: bytes) -> dict[str, Any]:
    end = 8 + int.from_bytes(data[:8], "little")
    with parsing(path, "has a damaged description ({error}); write it anew"):
        metadata = json.loads(data[8:end]).get("__metadata__") or {}
        if _KEY not in metadata:
            raise ForeignFileError(
                f"{shown(path)} is a safetensors file, but pyrel did not write it"
            )
        content = json.loads(metadata[_KEY])
        if type(content["kind"]) is not str or type(content["format_version"]) is not int:
            raise TypeError("kind and format_version: wanted a text and a number")
        return dict(content)


def _check_format(path: Path | str, content: Mapping[str, Any], kind: Kind) -> None:
    if content["kind"] != kind:
        raise ValueError(f"{shown(path)} holds a {shown(content['kind'])}, not a {kind}")
    written, read = content["format_version"], FORMAT_VERSIONS[kind]
    if written > read:
        raise ValueError(
            f"{shown(path)} has format {shown(written)} of pyrel {version_of(content)}; this is "
            f"pyrel {version()}, which reads format {read}: install a newer pyrel"
        )
    if written < read:
        raise ValueError(
            f"{shown(path)} has format {shown(written)} of pyrel {version_of(content)}, which this "
            f"pyrel {version()} does not read: write it anew"
        )


def version_of(content: Mapping[str, Any]) -> str:
    """Return the pyrel that a description says it is of, as a message can say it."""
    return shown(content.get("pyrel_version"), 40)


def _checksum(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in description.items() if name != "checksum"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode() + b"\n")
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
