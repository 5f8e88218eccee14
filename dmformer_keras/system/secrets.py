"""Removes tokens and passwords, which must not be published, from recorded commands."""

import re

_SHOWN_INSTEAD = "***"
_TOKEN = re.compile(
    r"\b(?:hf_\w{10,}|gh[opsur]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|sk-[\w-]{16,}"
    r"|AKIA[0-9A-Z]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+)"
)
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@'\"]+(?=@)")
_NAME = "(?:token|password|passwd|secret|api[_-]?key|access[_-]?key)"
_NAMED = re.compile(
    rf"(?i)(--[\w-]*{_NAME}(?:\s+|=)|{_NAME}\s*=\s*)(?:'[^']*'|\"[^\"]*\"|[^\s&'\",]+)"
)


def without_secrets(text: str) -> str:
    """A command or a text with the tokens and passwords in it left out.

    What looks like a service's token is left out wherever it stands; anything else where it follows
    an option such as `--token` or a name such as `password=`, or stands before the host in an
    address.

    Example:

    >>> without_secrets("dmformer train --data https://me:pass@there/x.zip --token abc")
    'dmformer train --data https://***@there/x.zip --token ***'
    """
    text = _IN_ADDRESS.sub(_SHOWN_INSTEAD, _TOKEN.sub(_SHOWN_INSTEAD, text))
    return _NAMED.sub(rf"\1{_SHOWN_INSTEAD}", text)
