# SPDX-License-Identifier: Apache-2.0
import check_links
import pytest


@pytest.fixture
def root(tmp_path):
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / "methods.md").write_text(
        "# Rules, exactly\n\n## z⁺ and `low`\n\n## Notes\n\n## Notes\n"
    )
    (tmp_path / "docs" / "a picture.png").write_bytes(b"")
    return tmp_path


def broken(root, text, page="README.md"):
    (root / "README.md").write_text("")
    (root / page).write_text(text)
    return check_links.broken_links(root)


@pytest.mark.parametrize(
    "text",
    [
        "[a](docs/methods.md)",
        '[a](docs/methods.md "a title")',
        "[a](docs/methods.md#rules-exactly)",
        "[a](docs/methods.md#z-and-low)",
        "[a](docs/methods.md#notes) [b](docs/methods.md#notes-1)",
        "![a](docs/a%20picture.png)",
        "# Here\n[a](#here)",
        '<a name="there"></a> [a](#there)',
        "[a][m]\n\n[m]: docs/methods.md",
        '<img width="3" src="docs/a%20picture.png">',
        "[a](https://example.org/nowhere.md#x) [b](mailto:a@example.org)",
        "`[a](nowhere.md)`",
        "```python\nx[i](nowhere)\n```\n",
        "[a](docs)",
    ],
)
def test_whole_links_pass(root, text):
    assert broken(root, text) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[a](docs/none.md)", "leads to no file"),
        ("![a](docs/none.png)", "leads to no file"),
        ("[a][m]\n\n[m]: none.md", "leads to no file"),
        ('<img src="none.png">', "leads to no file"),
        ("[a](#nowhere)", "leads to no heading or anchor"),
        ("[a](docs/methods.md#notes-2)", "leads to no heading or anchor"),
        ("```\n# Inside code\n```\n[a](#inside-code)", "leads to no heading or anchor"),
        ("```\ncode\n```\n[a](none.md)", "leads to no file"),
        ("[a](../outside.md)", "leads out of the repository"),
    ],
)
def test_broken_links_are_named(root, text, reason):
    (line,) = broken(root, text)
    assert line.startswith("README.md: link '")
    assert line.endswith(reason)


def test_links_are_relative_to_their_page(root):
    assert broken(root, "[a](../methods.md)", "docs/deep/page.md") == []
    (line,) = broken(root, "[a](methods.md)", "docs/deep/page.md")
    assert line == "docs/deep/page.md: link 'methods.md' leads to no file"


def test_exit_status(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    broken(root, "[a](docs/methods.md)")
    assert check_links.main() == 0
    broken(root, "[a](none.md)")
    assert check_links.main() == 1
    assert "none.md" in capsys.readouterr().err
