"""What each command can be asked, and what is wrong with a request at first sight.

Nothing here imports Keras: help, wrong options and missing folders are answered before a
backend is started, which takes seconds. Each module has DESCRIPTION, EPILOG and
`add_arguments`, most have `check`; the module of the same name in `dmformer_keras.cli` does
the work.
"""
