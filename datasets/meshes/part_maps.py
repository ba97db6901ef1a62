"""Maps from the names of a mesh's parts to classes, read from YAML.

    classes: {1: back, 2: seat, 3: base}    # or a list [back, seat, base]: ids from 1; background is 0
    parts:                                  # the first that matches; names or shell patterns, in any case
      "leg*": base
      Seat cushion: seat
    by: object                              # or group, or material; without it, what names every part

Shapes: T triangles.
"""

import fnmatch
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

import util
from datasets.meshes import named_mesh

MAX_CLASS_ID = 255  # of uint8 labels
MAX_SHOWN = 5
UNKNOWN = -1


@dataclass(frozen=True)
class PartMap:
    """What a file says.

    class_names: list by id, background first
    rules:       of (name or pattern in lower case, class id), in the order of the file
    by:          a kind of named_mesh.NAME_KINDS, or None
    """

    path: Path
    class_names: list
    rules: list
    by: str = None

    def class_id(self, name):
        """The class of a part's name, UNKNOWN where no rule matches."""
        name = name.lower()
        return next((i for rule, i in self.rules if rule == name or fnmatch.fnmatchcase(name, rule)), UNKNOWN)


def load(path):
    """The PartMap of a YAML file."""
    path = Path(path)
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise util.InputError(f"{path}: cannot be read as a YAML map of parts ({' '.join(str(error).split())})") from None
    if not isinstance(found, dict) or not set(found) <= {"classes", "parts", "by"}:
        raise util.InputError(f"{path}: expected the keys classes, parts and, if wanted, by, found {_kind(found)}")
    class_names = _class_names(found.get("classes"), path)
    ids = {name: i for i, name in enumerate(class_names) if i}
    parts = found.get("parts")
    if not isinstance(parts, dict) or not parts:
        raise util.InputError(f'{path}: parts: expected lines such as "leg*": {class_names[-1]}, found {_kind(parts)}')
    for name, class_name in parts.items():
        if isinstance(name, bool) or not isinstance(name, (str, int)):
            raise util.InputError(f"{path}: parts: {name!r} is no text; put the part's name in quotes")
        if class_name not in list(ids):
            raise util.InputError(f"{path}: parts: {name} is {class_name!r}, expected one of {', '.join(ids)}")
    by = found.get("by")
    if by not in (None, *named_mesh.NAME_KINDS):
        raise util.InputError(f"{path}: by: {by!r}, expected {', '.join(named_mesh.NAME_KINDS)}, or no such line")
    return PartMap(path, class_names, [(str(name).lower(), ids[class_name]) for name, class_name in parts.items()], by)


def _class_names(classes, path):
    """List of names by id, as long as the highest id + 1; ids without a name are "class <id>"."""
    classes = dict(enumerate(classes, start=1)) if isinstance(classes, list) else classes
    fine = (
        isinstance(classes, dict)
        and bool(classes)
        and all(
            type(i) is int and 0 <= i <= MAX_CLASS_ID and isinstance(name, str) and name.strip()
            for i, name in classes.items()
        )
    )
    if not fine or max(classes) == 0 or len(set(classes.values())) < len(classes):
        raise util.InputError(
            f"{path}: classes: expected different names, as [back, seat] or {{1: back, 2: seat}} with ids from 1 to "
            f"{MAX_CLASS_ID}, found {_kind(classes)}"
        )
    return [classes.get(i, f"class {i}" if i else "background") for i in range(max(classes) + 1)]


def _kind(found):
    return f"{', '.join(map(str, found))}"[:80] if isinstance(found, (dict, list)) and found else repr(found)[:80]


def labels(part_map, named, where):
    """(T,) uint8 classes of a NamedMesh; `where` is what errors call it.

    Without `by` in the map: of object, group, material the first whose names are all in it, one of them at least by
    more than a "*"; else the first whose names all are.
    """
    found = {}
    for kind in [part_map.by] if part_map.by else named_mesh.NAME_KINDS:
        names, ids = named.names[kind]
        used = np.unique(ids)
        classes = np.full(len(names), UNKNOWN)
        classes[used] = [part_map.class_id(names[i]) for i in used]
        unknown = [names[i] for i in used if classes[i] == UNKNOWN]
        if not unknown and (part_map.by or any(_is_told(part_map, names[i]) for i in used)):
            return classes[ids].astype(np.uint8)
        found[kind] = unknown, classes[ids]
    kind, (unknown, classes) = min(found.items(), key=lambda item: (len(item[1][0]) > 0, (item[1][1] == UNKNOWN).mean()))
    if not unknown:
        return classes.astype(np.uint8)
    shown = ", ".join(name or "(none)" for name in unknown[:MAX_SHOWN])
    more = f" and {len(unknown) - MAX_SHOWN} more" if len(unknown) > MAX_SHOWN else ""
    raise util.InputError(f"{where}: unknown part names, by {kind}: {shown}{more}; add them to parts in {part_map.path}")


def _is_told(part_map, name):
    """Whether a rule that is more than "*" has the name."""
    name = name.lower()
    return any(rule == name or (rule != "*" and fnmatch.fnmatchcase(name, rule)) for rule, _ in part_map.rules)
