"""The one exception that means "the request was wrong", apart from bugs."""


class DMFormerError(ValueError):
    """A stated failure: what was wrong, what was expected, what to do, in one sentence.

    Library code raises it before work starts. The command line prints its
    message without a traceback. It is a `ValueError`, so callers who know
    nothing of this package still catch what they expect.
    """
