"""A hook of MkDocs: what pages link to outside docs/.

Pictures of benchmarks come along with the site; other links become paths, for it has not what
they lead to.
"""

import re
from pathlib import Path

from mkdocs.structure.files import File

_ROOT = Path(__file__).parent.parent
_PICTURES = "benchmarks/results"
_PICTURE = re.compile(rf"(!\[[^\]]*\]\()\.\./({_PICTURES}/[^)]+\))")
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")


def on_files(files, config):
    """Adds the pictures."""
    for path in sorted((_ROOT / _PICTURES).glob("*/*.png")):
        name = path.relative_to(_ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, **_):
    """Replaces the links of a page that lead out of docs/."""
    if "/" in page.file.src_uri:
        return markdown
    return _OUTSIDE.sub(r"\1 (`\2`)", _PICTURE.sub(r"\1\2", markdown))
