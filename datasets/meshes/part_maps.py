"""Maps from the names of a mesh's parts to classes, read from YAML.

    classes: {1: back, 2: seat, 3: base}    # or a list [back, seat, base]: ids from 1; background is 0
    parts:                                  # names or shell patterns, case ignored; the first that matches counts
      "leg*": base
      Seat cushion: seat
    by: object                              # or group, or material; default: the first kind that names every part

Shapes: T triangles.
"""

import fnmatch
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

import util
from datasets.meshes import named_mesh
from datasets.meshes.triangle_mesh import MAX_CLASS_ID

UNKNOWN = -1


@dataclass(frozen=True)
class PartMap:
    """The contents of a file."""

    path: Path
    class_names: list  # by id, background first
    rules: list  # of (name or pattern in lower case, class id), in the order of the file
    by: str = None  # a kind of named_mesh.NAME_KINDS

    def match(self, name):
        """(rule, class id) of a part's name; (None, UNKNOWN) if no rule matches."""
        name = name.lower()
        rules = (rule for rule in self.rules if rule[0] == name or fnmatch.fnmatchcase(name, rule[0]))
        return next(rules, (None, UNKNOWN))


def load_yaml(path, advice):
    """The contents of a YAML file. Raises an InputError that ends with `advice`."""
    with util.reading(path, "YAML", OSError, ValueError, RecursionError, yaml.YAMLError, advice=f"; {advice}"):
        return yaml.safe_load(path.read_text(encoding="utf-8"))


def load(path):
    """The PartMap of a YAML file."""
    path, expected = Path(path), "expected the keys classes, parts and optionally by"
    found = load_yaml(path, expected)
    if not isinstance(found, dict) or not set(found) <= {"classes", "parts", "by"}:
        raise util.InputError(f"{path}: found {_shown(found)}, {expected}")
    class_names = _class_names(found.get("classes"), path)
    ids = {name: i for i, name in enumerate(class_names) if i}
    parts = found.get("parts")
    if not isinstance(parts, dict) or not parts:
        raise util.InputError(f'{path}: parts: found {_shown(parts)}, expected lines such as "leg*": {class_names[-1]}')
    for name, class_name in parts.items():
        if isinstance(name, bool) or not isinstance(name, (str, int)):
            raise util.InputError(f"{path}: parts: found {name!r}, expected text; put the part's name in quotes")
        if class_name not in list(ids):
            raise util.InputError(f"{path}: parts: {name}: found {class_name!r}, expected one of {', '.join(ids)}")
    by = found.get("by")
    if by not in (None, *named_mesh.NAME_KINDS):
        raise util.InputError(f"{path}: by: found {by!r}, expected {', '.join(named_mesh.NAME_KINDS)} or no such line")
    return PartMap(path, class_names, [(str(name).lower(), ids[class_name]) for name, class_name in parts.items()], by)


def _class_names(classes, path):
    """List of names by id, up to the highest id. Ids without a name are called "class <id>"."""
    classes = dict(enumerate(classes, start=1)) if isinstance(classes, list) else classes
    is_valid = isinstance(classes, dict) and len(set(map(str, classes.values()))) == len(classes) > 0
    is_valid = is_valid and all(type(i) is int and 0 <= i <= MAX_CLASS_ID for i in classes) and max(classes) > 0
    if not is_valid or not all(isinstance(name, str) and name.strip() for name in classes.values()):
        raise util.InputError(
            f"{path}: classes: found {_shown(classes)}, expected different names as [back, seat], or as "
            f"{{1: back, 2: seat}} with ids from 1 to {MAX_CLASS_ID}"
        )
    return [classes.get(i, f"class {i}" if i else "background") for i in range(max(classes) + 1)]


def _shown(found):
    return (", ".join(map(str, found)) if isinstance(found, (dict, list)) and found else repr(found))[:80]


def labels(part_map, named, where):
    """(T,) uint8 classes of a NamedMesh, which errors call `where`.

    If the map has no `by`, the first of object, group and material is used whose names all match, at least one of them
    a rule other than "*"; if there is none, the first whose names all match.
    """
    found = []
    for kind in [part_map.by] if part_map.by else named_mesh.NAME_KINDS:
        names, ids = named.names[kind]
        used, matches = np.unique(ids), [part_map.match(name) for name in names]
        classes = np.array([class_id for _, class_id in matches])[ids]
        unknown = [names[i] for i in used if matches[i][0] is None]
        only_rest = not unknown and all(matches[i][0] == "*" for i in used)
        found.append(((len(unknown) > 0, only_rest, (classes == UNKNOWN).mean()), kind, unknown, classes))
    _, kind, unknown, classes = min(found, key=lambda entry: entry[0])
    if unknown:
        unknown = named_mesh.listed(unknown)
        raise util.InputError(f"{where}: unknown part names, by {kind}: {unknown}; add them to parts in {part_map.path}")
    return classes.astype(np.uint8)
