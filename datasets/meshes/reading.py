"""Reads the mesh in an OBJ, glTF or PLY file, from a folder or an archive."""

import errno
from pathlib import Path

import util
from datasets.meshes import gltf, obj, ply

READERS = {".obj": obj.read, ".glb": gltf.read, ".gltf": gltf.read, ".ply": ply.read}  # by suffix
SUFFIXES = tuple(READERS)


def read(path, open_file):
    """The NamedMesh of one file, without triangles that have no area. It may be empty.

    path:      a Path, or a PurePath that `open_file` understands
    open_file: from the path of the file, or of a library or texture that it names, to its bytes. Raises
               FileNotFoundError if there is no such file or if it is outside the object's folder.
    """
    if path.suffix.lower() not in READERS:
        raise util.InputError(f"{path}: cannot read this kind of file, expected {', '.join(SUFFIXES)}")
    try:
        return READERS[path.suffix.lower()](path, open_file(path), open_file)
    except OSError as error:
        raise util.InputError(f"{error.filename or path}: cannot read ({error.strerror or error})") from None


def read_below(root, path):
    """The NamedMesh of the file `path`, which may use the files below the folder `root` and no others."""
    path, root = Path(path), Path(root).resolve()

    def open_file(asked):
        try:
            resolved = asked.resolve()
            is_allowed = asked == path or (resolved.is_file() and resolved.is_relative_to(root))
        except (OSError, ValueError, RuntimeError):  # a name that no file can have, or a loop of links
            is_allowed = False
        if not is_allowed:
            raise FileNotFoundError(errno.ENOENT, "no such file below the folder of the object", str(asked))
        return resolved.read_bytes()

    return read(path, open_file)
