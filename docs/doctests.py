"""An extension of Griffe, which reads docstrings for the site: doctests become blocks of code."""

import re

import griffe

# From the first prompt to the next empty line.
_DOCTEST = re.compile(r"(?:^>>> .*\n?(?:^.+\n?)*)", re.MULTILINE)


class FencedDoctests(griffe.Extension):
    """Puts fences around doctests, which stand unindented under `Example:`."""

    def on_object(self, *, obj, **_):
        """Changes the docstring of a function, class or attribute."""
        if obj.docstring:
            obj.docstring.value = _DOCTEST.sub(
                lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", obj.docstring.value
            )
