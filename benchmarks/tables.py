"""How the scripts that compare accuracies write what came out."""

import shlex
import sys
from pathlib import Path

import numpy as np

from dmformer_keras.system.files import written_whole
from dmformer_keras.system.machine import describe_machine, machine_sentence


def write_table(folder, settings, heads, rows):
    """Writes `results.md`, and prints it: the command, the machine, the settings, a table.

    Args:
        folder: Path to write to, made if absent.
        settings: str, a sentence on what all cells have in common.
        heads: list of str, the titles of the columns; those after the first hold numbers.
        rows: list of lists of str, the cells.
    """
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    lines.insert(1, f"|---|{'---:|' * (len(heads) - 1)}")
    machine = machine_sentence(describe_machine(threads=None))
    text = "\n\n".join([f"`{command}`", machine, settings, "\n".join(lines)]) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / "results.md") as path:
        path.write_text(text)
    print(text)


def mean_cell(each):
    """The mean of some accuracies in percent, and each where they differ; of None, that it was
    not measured.
    """
    if each is None:
        return "not measured"
    percent = [f"{100 * one:.2f}" for one in each]
    every = f" ({', '.join(percent)})" if len(set(percent)) > 1 else ""
    return f"{100 * np.mean(each):.2f}{every}"
