"""The one exception that means "the request was wrong", apart from bugs."""


class DMFormerError(ValueError):
    """A stated failure: what was wrong, what was expected, what to do, in one sentence.

    Library code raises it before work starts. The command line prints its
    message without a traceback. It is a `ValueError`, so callers who know
    nothing of this package still catch what they expect.
    """


def shortened(error, limit=300):
    """What another library says went wrong, for a place in one sentence of ours.

    Args:
        error: the exception, or a str.
        limit: int, the most characters.

    Returns:
        str, in one line; the name of the exception's type if it says nothing.

    Example:

    >>> shortened(ValueError("no\\n   such thing"))
    'no such thing'
    >>> shortened(KeyError())
    'KeyError'
    """
    return " ".join(str(error).split())[:limit] or type(error).__name__
