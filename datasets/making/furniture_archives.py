"""The archives of Sweet Home 3D's furniture: in a folder, in a Debian package, or downloaded with apt-get."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import util

PACKAGE = "sweethome3d-furniture"


def find(names, archive_dir, cache):
    """{file name: path} of the .sh3f archives with these file names.

    archive_dir: a folder that holds them at any depth, a .deb package, or None to download the package
    cache:       folder in which a package is unpacked
    """
    given = None if archive_dir is None else Path(archive_dir)
    if given is not None and not given.exists():
        raise util.InputError(f"--archive_dir {given}: no such folder or file")
    source = given if given is not None and given.is_dir() else _unpacked(given, cache)
    found = {path.name: path for path in sorted(source.rglob("*.sh3f"))}
    missing = sorted(set(names) - set(found))
    if missing:
        advice = f"give the folder of the unpacked Debian package {PACKAGE} 1.8 as --archive_dir"
        raise util.InputError(f"{source}: {', '.join(missing)} not found here or in a folder below; {advice}")
    return {name: found[name] for name in names}


def _unpacked(package, cache):
    """The folder below `cache` with the contents of a Debian package; None downloads the package."""
    target = cache / (PACKAGE if package is None else package.stem)
    if target.is_dir():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise util.InputError(f"cannot write to {cache}: {error.strerror}; choose another --out") from None
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        if package is None:
            _call(["apt-get", "download", PACKAGE], scratch, "run `apt-get update`, or get the package elsewhere")
            package = next(Path(scratch).glob("*.deb"))
        unpacked = Path(scratch) / "unpacked"
        _call(["dpkg-deb", "-x", str(package.resolve()), str(unpacked)], scratch, "unpack it elsewhere")
        shutil.move(unpacked, target)
    return target


def _call(command, folder, advice):
    advice = f"{advice} and give the folder of its .sh3f archives as --archive_dir"
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    except FileNotFoundError:
        raise util.InputError(f"{command[0]} is not installed; {advice}") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise util.InputError(f"`{' '.join(command)}` failed: {reason}; {advice}")
