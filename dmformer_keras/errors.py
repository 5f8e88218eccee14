"""The one exception that means "the request was wrong", apart from bugs."""

import reprlib
import zipfile
import zlib


class DMFormerError(ValueError):
    """A stated failure: what was wrong, what was expected, what to do, in one sentence.

    Library code raises it before work starts. The command line prints its
    message without a traceback. It is a `ValueError`, so callers who know
    nothing of this package still catch what they expect.
    """


# What readers, Python's and other libraries', raise for files that are damaged.
DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,  # RecursionError and NotImplementedError are such
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 3, 60, 60, 40
_REPR.maxlist = _REPR.maxtuple = _REPR.maxset = _REPR.maxfrozenset = _REPR.maxdict = 6


def shown(value, limit=100):
    """A value as its `repr`, for a place in one sentence: never more than a line.

    Example:

    >>> shown((1, 2)), shown([7] * 10**6)
    ('(1, 2)', '[7, 7, 7, 7, 7, 7, ...]')
    """
    try:
        text = " ".join(_REPR.repr(value).split())
    except Exception:  # whatever a stranger's object does
        text = f"a {type(value).__name__}"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def shortened(error, limit=300):
    """What another library says went wrong, in one line; the exception's type if it says nothing.

    Example:

    >>> shortened(ValueError("no\\n   such thing"))
    'no such thing'
    >>> shortened(KeyError())
    'KeyError'
    """
    return " ".join(str(error).split())[:limit] or type(error).__name__
