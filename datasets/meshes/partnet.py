"""Reads annotations of PartNet v0: a folder of part meshes, a hierarchy with their names, and a level-1 class list."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import data_util
import util
from datasets.meshes import named_mesh, reading
from datasets.meshes.triangle_mesh import MAX_CLASS_ID

HIERARCHIES = ("result_after_merging.json", "result.json")  # the first that exists is read
CONTENTS = ("objs", *HIERARCHIES)  # by any of these, a folder is known to be an annotation
LIST_SUFFIXES = re.compile(r"\s+(leaf|subcomponents)$")  # after the names in PartNet's own lists
NO_CLASS = -1
DOWNLOAD = "download the model again"  # what errors advise


@dataclass(frozen=True)
class ClassList:
    """Classes and the part names that they include."""

    path: Path
    ids: dict  # {name in lower case: class id}; a name is a path `chair/chair_back` or short, `chair_back` or `back`
    names: list  # the short names by id, background first

    def class_id(self, path):
        """The class of a node, NO_CLASS if not listed. `path` holds the names from the root to the node in lower case."""
        name, root = path[-1], path[0]
        found = (self.ids.get(key) for key in ("/".join(path), name, name.removeprefix(f"{root}_")))
        return next((i for i in found if i is not None), NO_CLASS)


def load_class_list(path):
    """The ClassList of a file with a line per class, the integer id first. Id 0 is the background, not a part."""
    names = data_util.load_class_names(path)
    if len(names) > MAX_CLASS_ID + 1:
        raise util.InputError(f"{path}: found class id {len(names) - 1}, expected ids up to {MAX_CLASS_ID}")
    listed = [LIST_SUFFIXES.sub("", name) for name in names]
    ids = {name.lower(): i for i, name in enumerate(listed) if i}
    return ClassList(Path(path), ids, ["background", *(name.split("/")[-1] for name in listed[1:])])


def model_id(folder):
    """The id of the annotated ShapeNet model in meta.json, None if there is no valid one."""
    try:
        found = util.load_json(folder / "meta.json", DOWNLOAD).get("model_id")
    except (util.InputError, AttributeError):
        return None  # the file is optional; `load` raises if it is broken
    return found if isinstance(found, str) and re.fullmatch(r"\w[\w.-]*", found, re.ASCII) else None


def load(folder, class_list):
    """The Mesh of an annotation. The label of a part is the class of its deepest ancestor in the class list."""
    folder = Path(folder)
    if (folder / "meta.json").exists():
        util.load_json(folder / "meta.json", DOWNLOAD)
    hierarchy_path = next((folder / name for name in HIERARCHIES if (folder / name).exists()), None)
    if hierarchy_path is None:
        raise util.InputError(f"{folder}: expected {' or '.join(HIERARCHIES)}, found neither")
    class_of_part, faults = part_classes(util.load_json(hierarchy_path, DOWNLOAD), class_list, hierarchy_path)

    pieces = []
    for stem, class_id in class_of_part.items():
        path = folder / "objs" / f"{stem}.obj"
        if not path.is_file():
            raise util.InputError(f"{hierarchy_path}: names part {stem}, expected the file {path}; {DOWNLOAD}")
        piece = reading.read_below(folder, path)
        labels = np.full(len(piece.mesh.triangles), class_id, dtype=np.uint8)
        pieces.append(replace(piece, mesh=replace(piece.mesh, labels=labels)))
    whole = named_mesh.assemble(pieces, folder)
    return replace(whole.mesh, faults=(*faults, *whole.faults))


def part_classes(hierarchy, class_list, where):
    """({stem of an OBJ file: class id}, faults) of a hierarchy from the JSON file `where`.

    If several nodes have a part, it gets the class of the deepest of them, or of the first of equally deep ones.
    """
    waiting = [(node, (), NO_CLASS) for node in reversed(hierarchy if isinstance(hierarchy, list) else [hierarchy])]
    found, contested = {}, {}  # stem: (depth, class id, name of the node)
    while waiting:
        node, path, class_id = waiting.pop()
        name, stems, children = _read_node(node, where)
        path = (*path, name.lower())
        listed = class_list.class_id(path)
        class_id = class_id if listed == NO_CLASS else listed
        for stem in stems:
            depth, other, _ = found.get(stem, (0, NO_CLASS, ""))
            if len(path) > depth:
                found[stem] = len(path), class_id, name
                contested.pop(stem, None)
            elif len(path) == depth and class_id != other:
                contested[stem] = True
        waiting += [(child, path, class_id) for child in reversed(children)]
    if not found:
        raise util.InputError(f"{where}: found no node with objs, expected the hierarchy of a PartNet model")
    unknown = list(dict.fromkeys(name for _, class_id, name in found.values() if class_id == NO_CLASS))
    if unknown:
        unknown = named_mesh.listed(unknown)
        raise util.InputError(f"{where}: unknown part names: {unknown}; add them or an ancestor to {class_list.path}")
    faults = [f"{where}: part {stem} has two classes, first one used" for stem in contested]
    return {stem: class_id for stem, (_, class_id, _) in found.items()}, faults


def _read_node(node, where):
    """(name, stems of OBJ files, children) of a node."""
    name, stems, children = (node.get(key) for key in ("name", "objs", "children")) if isinstance(node, dict) else (0, 0, 0)
    stems, children = stems or [], children or []
    if not isinstance(name, str) or not isinstance(stems, list) or not isinstance(children, list):
        raise util.InputError(f"{where}: found {str(node)[:60]}, expected a node with a name, and objs or children")
    for stem in stems:
        if not isinstance(stem, str) or not re.fullmatch(r"\w[\w.-]*", stem, re.ASCII):
            raise util.InputError(f"{where}: objs of {name}: found {str(stem)[:60]!r}, expected the name of a file in objs/")
    return name, stems, children
