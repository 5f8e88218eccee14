"""The arguments of each command, and the quick checks of them.

Nothing here imports Keras: help, wrong options and missing folders are answered before a
backend is started, which takes seconds. Each module has DESCRIPTION, EPILOG and
`add_arguments`, most have `check`; the module of the same name in `dmformer_keras.cli` does
the work.
"""
