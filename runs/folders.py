"""The folder of a run, `<logging_root>/<log_dir>`."""

import itertools
from pathlib import Path

import util

PARAMS = "params.txt"  # the options of a run, one per line; marks a folder as a run's


def start(options, continues=None):
    """Make the run's folder, `<logging_root>/<log_dir>`, with params.txt in it, and return it.

    An earlier run's folder of that name is renamed to `<log_dir>.1`, `.2`, ..., so that nothing of it is lost or
    mixed in, unless this run continues a checkpoint (a path) that lies in it.
    """
    folder = Path(options.logging_root) / options.log_dir
    if not options.log_dir and (folder / PARAMS).exists() and continues is None:
        raise util.InputError(f"--logging_root {folder}: holds a run itself already; give this one a folder with --log_dir")
    inside = continues is not None and folder.resolve() in Path(continues).resolve().parents
    try:
        if (folder / PARAMS).exists() and not inside:
            aside = next(path for i in itertools.count(1) if not (path := folder.with_name(f"{folder.name}.{i}")).exists())
            folder.rename(aside)
            print(f"note: the earlier run in {folder} is now {aside}")
        lines = [f"{name}: {value}\n" for name, value in sorted(vars(options).items())]
        with util.replacing(folder / PARAMS) as temporary:
            temporary.write_text("".join(lines))
    except OSError as error:
        raise util.InputError(f"--logging_root, --log_dir: {folder} cannot be written ({error.strerror})") from None
    return folder
