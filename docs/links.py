"""A hook of MkDocs: links that lead out of docs/ become paths, for the site has it not."""

import re

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")


def on_page_markdown(markdown, page, **_):
    """Replaces the links of a page that lead out of docs/."""
    if "/" in page.file.src_uri:
        return markdown
    return _OUTSIDE.sub(r"\1 (`\2`)", markdown)
