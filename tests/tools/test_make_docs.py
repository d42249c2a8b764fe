# SPDX-License-Identifier: Apache-2.0
import make_docs
import pytest

import pyrel


def told(x: int, y: int) -> int:
    """Add.

    Parameters
    ----------
    x, y : int

    Returns
    -------
    int
    """
    return x + y


def one_missing(x: int, y: int) -> None:
    """Take two.

    Parameters
    ----------
    x : int
        The first.
    """


def one_too_many(x: int) -> None:
    """Take one.

    Parameters
    ----------
    x : int
    z : int
    """


def unknown_section() -> None:
    """Tell.

    Hints
    -----
    None.
    """


def short_line() -> int:
    """Tell.

    Returns
    ----
    int
    """


def silent() -> None: ...


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (one_missing, "f: tells of the parameters ['x'], and takes ['x', 'y']"),
        (one_too_many, "f: tells of the parameters ['x', 'z'], and takes ['x']"),
        (unknown_section, "f: no section 'Hints' is known"),
        (short_line, "f: the line below 'Returns' has another length"),
        (silent, "f: has no docstring"),
    ],
    ids=lambda given: getattr(given, "__name__", None),
)
def test_what_is_wrong_in_a_docstring_is_said(function, fault) -> None:
    assert [*make_docs.faults("f", function)] == [fault]


def test_a_docstring_without_fault() -> None:
    assert [*make_docs.faults("f", told)] == []


def test_names_and_members_of_classes_are_public() -> None:
    names = dict(make_docs.public(pyrel))
    assert {"pyrel.Explainer", "pyrel.Explainer.attribute", "pyrel.explain"} <= names.keys()
    assert "pyrel.data" not in names
