"""Text from elsewhere in Markdown, where it must stay text: names, commands, facts."""

import re

_SPECIAL = re.compile(r"[\\`*\[\]<>|~&$]|(?<![^\W_])_|_(?![^\W_])")


def escaped(text: str) -> str:
    r"""A text in a line of Markdown, shown as it is: a str, in one line.

    Example:

    >>> print(escaped("<b>a|b</b> [x](y) big_cat"))
    \<b\>a\|b\</b\> \[x\](y) big_cat
    """
    return _SPECIAL.sub(lambda match: f"\\{match[0]}", " ".join(text.split()))


def code(text: str) -> str:
    r"""A text as code in a line of Markdown, also in a table: a str, in one line.

    Example:

    >>> print(code("a`b|c"))
    `` a`b\|c ``
    """
    text = " ".join(text.split()).replace("|", "\\|")
    ticks = "`" * (_longest_run(text) + 1)
    space = " " if text.startswith("`") or text.endswith("`") or len(ticks) > 1 else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def fenced(text: str, language: str) -> str:
    """A block of code.

    Example:

    >>> print(fenced("ls", "sh"))
    ```sh
    ls
    ```
    """
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _longest_run(text):
    return max(map(len, re.findall("`+", text)), default=0)
