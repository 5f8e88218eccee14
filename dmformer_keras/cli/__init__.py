"""The `dmformer` command: for each of its commands one module here, and one in `arguments`.

The module in `arguments` reads and checks a request without Keras; the module here does the work.
Only the modules of the requested command are imported. The installed command is
`dmformer_command.py`, which starts Keras in between.
"""

import argparse
import gc
import importlib
import os
import shlex
import sys

from dmformer_keras.errors import DMFormerError, shortened

COMMANDS = {
    "quickstart": "train, measure and export a digit classifier in minutes, offline",
    "presets": "list the built-in architectures and trained models",
    "summary": "show the size and the stages of a model",
    "train": "train a classifier or a segmenter on a folder, a zip or a dataset",
    "evaluate": "measure a trained model on labeled images",
    "predict": "print the classes of images, or write the class of each pixel",
    "explain": "draw what a model looks at and what its attention does",
    "demo": "open a page in the browser to try a model on photographs",
    "export": "convert a trained model to TFLite, ONNX, OpenVINO or SavedModel",
    "package": "create a preset to share from a training run",
    "upload": "put a preset on the Hugging Face Hub",
    "benchmark": "measure speed and memory, and compare with other libraries' models",
}
# What needs neither Keras nor a backend.
WITHOUT_KERAS = ("presets",)

_EPILOG = """\
start here:
  dmformer quickstart                          all steps, from data to a model for a phone
  dmformer train --data photos/ --preset dmformer_t_mix --recipe auto --output runs/photos
  dmformer evaluate runs/photos --data photos/
  dmformer predict runs/photos cat.jpg

`dmformer COMMAND --help` explains each command with examples.
KERAS_BACKEND=tensorflow, jax or torch chooses the backend.
Exit codes: 0 done, 1 failed (the reason is printed), 2 wrong usage, 130 interrupted.
"""


def main(argv=None, start=None):
    """Runs the command line; returns the exit code: 0 done, 1 a stated failure, 130 interrupted.

    `start` is called once the request is found right, before any work: it starts Keras, and returns
    what is wrong with its backend, or None.
    """
    code = _run(sys.argv[1:] if argv is None else list(argv), start)
    if code:
        # Collect what the failure left, such as threads of TensorFlow: when Python exits they could
        # not end any more, and it would wait for them.
        gc.collect()
    return code


def _run(argv, start):
    debug = "--debug" in argv
    module = args = None
    try:
        name = next((argument for argument in argv if not argument.startswith("-")), None)
        args = _checked_arguments(name, argv)
        problem = start() if start is not None and name not in WITHOUT_KERAS else None
        if problem:
            raise DMFormerError(problem)
        module = importlib.import_module(f"dmformer_keras.cli.{name}")
        module.run(args)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        say_how = getattr(module, "after_interruption", None)
        hint = say_how(args) if args and say_how else "Run the command again to start over."
        print(f"\nInterrupted. {hint}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe; Python would try to write to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        print(f"dmformer: {_sentence(error)}", file=sys.stderr)
        return 1


def _checked_arguments(name, argv):
    """Reads the arguments of a command, and checks what can be known at once."""
    module = None
    if name in COMMANDS:
        module = importlib.import_module(f"dmformer_keras.cli.arguments.{name}")
    parser = _parser(name, module)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        args.parser.error(f"there is no argument {unknown[0]!r}")
    args.command_line = shlex.join(["dmformer", *argv])
    if hasattr(module, "check"):
        module.check(args)
    return args


class _Parser(argparse.ArgumentParser):
    """A parser whose errors show what its command needs, in one line, not every option."""

    def error(self, message):
        needed = [action for action in self._actions if not self._optional(action)]
        self.exit(
            2,
            f"usage: {self.prog} {' '.join(map(self._shown, needed))} ...\n"
            f"{self.prog}: error: {message}; `{self.prog} --help` lists all\n",
        )

    @staticmethod
    def _optional(action):
        return not action.required and (bool(action.option_strings) or action.nargs == "?")

    @staticmethod
    def _shown(action):
        value = action.metavar or action.dest.upper()
        if not action.option_strings:
            return f"{value}..." if action.nargs == "+" else value
        return f"{action.option_strings[-1]} {value}"


def _parser(name, module):
    parser = _Parser(
        prog="dmformer",
        description="DMFormer vision models: train, measure, use and export them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command, help_line in COMMANDS.items():
        chosen = module is not None and command == name
        command_parser = commands.add_parser(
            command,
            help=help_line,
            description=module.DESCRIPTION if chosen else None,
            epilog=module.EPILOG if chosen else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command_parser.add_argument(
            "--debug", action="store_true", help="show the traceback of a failure"
        )
        command_parser.set_defaults(parser=command_parser)
        if chosen:
            module.add_arguments(command_parser)
    return parser


# How the command spells what messages advise to pass in Python.
_OPTIONS = {'on_corrupt="skip"': "--on-corrupt skip", "resume=True": "--resume"}


def _sentence(error):
    """One sentence that says what failed, and whose fault it is."""
    if isinstance(error, DMFormerError):
        text = str(error)
        for argument, option in _OPTIONS.items():
            text = text.replace(argument, option)
        return text
    text = shortened(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "out of memory" in text:
        return f"Out of memory; lower --batch-size or --image-size ({text[:120]})."
    if isinstance(error, OSError):
        return f"{text}."
    return (
        f"This is a bug in dmformer-keras: {type(error).__name__}: {text}; run the command with "
        "--debug and report the traceback."
    )
