# SPDX-License-Identifier: Apache-2.0
import printed_output


def test_the_architecture_shows_what_is_printed() -> None:
    page = printed_output.PAGE.read_text("utf-8")
    examples = printed_output.EXAMPLE.findall(page)
    assert len(examples) == page.count("```python") == page.count("```text") >= 5
    assert printed_output.printed(page).split("\n") == page.split("\n")


def test_another_output_is_found() -> None:
    page = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n"
    assert printed_output.printed(page) == page.replace("3", "2")
