"""Reads annotations of PartNet v0: a folder of part meshes, a hierarchy that names them, and a level-1 class list."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import data_util
import util
from datasets.meshes import named_mesh, reading, triangle_mesh

HIERARCHIES = ("result_after_merging.json", "result.json")  # the first that is there
LIST_SUFFIXES = re.compile(r"\s+(leaf|subcomponents)$")  # of the names in PartNet's own lists
MAX_CLASS_ID = 255  # of uint8 labels
MAX_SHOWN = 5
NO_CLASS = -1


@dataclass(frozen=True)
class ClassList:
    """Class ids by listed name in lower case: a path `chair/chair_back`, or a short name `chair_back` or `back`.

    names: the short names by id, background first
    """

    path: Path
    ids: dict
    names: list

    def class_id(self, path):
        """The class that lists a node, given by the names on its way from the root (in lower case), or NO_CLASS."""
        name, root = path[-1], path[0]
        found = (self.ids.get(key) for key in ("/".join(path), name, name.removeprefix(f"{root}_")))
        return next((i for i in found if i is not None), NO_CLASS)


def load_class_list(path):
    """The ClassList of a file: a line per class, the integer id first. Id 0, the background, names no part."""
    names = data_util.load_class_names(path)
    if len(names) > MAX_CLASS_ID + 1:
        raise util.InputError(f"{path}: class id {len(names) - 1} found, expected ids up to {MAX_CLASS_ID}")
    listed = [LIST_SUFFIXES.sub("", name) for name in names]
    ids = {name.lower(): i for i, name in enumerate(listed) if i}
    return ClassList(Path(path), ids, ["background", *(name.split("/")[-1] for name in listed[1:])])


def is_annotation(folder):
    return any((folder / name).exists() for name in ("objs", *HIERARCHIES))


def model_id(folder):
    """The id of the ShapeNet model that an annotation is of, as its meta.json has it; None where it tells none."""
    try:
        found = json.loads((folder / "meta.json").read_text(encoding="utf-8")).get("model_id")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None  # `load` refuses a broken file; there need not be any
    return found if isinstance(found, str) and re.fullmatch(r"\w[\w.-]*", found, re.ASCII) else None


def load(folder, class_list):
    """The LoadedMesh of an annotation, labelled by the deepest listed class that each part belongs to."""
    folder = Path(folder)
    if (folder / "meta.json").exists():
        _read_json(folder / "meta.json")
    hierarchy_path = next((folder / name for name in HIERARCHIES if (folder / name).exists()), None)
    if hierarchy_path is None:
        raise util.InputError(f"{folder}: expected {' or '.join(HIERARCHIES)}, found neither")
    class_of_part, faults = part_classes(_read_json(hierarchy_path), class_list, hierarchy_path)

    pieces = []
    for stem, class_id in class_of_part.items():
        path = folder / "objs" / f"{stem}.obj"
        if not path.is_file():
            raise util.InputError(f"{hierarchy_path}: names the part {stem}, but there is no {path}; get the model again")
        piece = reading.read_below(folder, path)
        labels = np.full(len(piece.mesh.triangles), class_id, dtype=np.uint8)
        pieces.append(replace(piece, mesh=replace(piece.mesh, labels=labels)))
    whole = named_mesh.assemble(pieces, folder)
    return triangle_mesh.LoadedMesh(whole.mesh, (*faults, *whole.faults))


def part_classes(hierarchy, class_list, where):
    """({stem of an OBJ file: class id}, faults) of a hierarchy, as read from the JSON file `where`.

    A part that several nodes name has the class of the deepest of them; of equally deep ones, the first.
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
        raise util.InputError(f"{where}: no node has objs; expected the hierarchy of a PartNet model")
    unknown = list(dict.fromkeys(name for _, class_id, name in found.values() if class_id == NO_CLASS))
    if unknown:
        more = f" and {len(unknown) - MAX_SHOWN} more" if len(unknown) > MAX_SHOWN else ""
        raise util.InputError(
            f"{where}: unknown part names: {', '.join(unknown[:MAX_SHOWN])}{more}; neither they nor what they are part of "
            f"is in {class_list.path}"
        )
    faults = [f"{where}: the part {stem} has two classes, the first taken" for stem in contested]
    return {stem: class_id for stem, (_, class_id, _) in found.items()}, faults


def _read_node(node, where):
    """(name, stems of OBJ files, children) of a node."""
    name, stems, children = (node.get(key) for key in ("name", "objs", "children")) if isinstance(node, dict) else (0, 0, 0)
    stems, children = stems or [], children or []
    if not isinstance(name, str) or not isinstance(stems, list) or not isinstance(children, list):
        raise util.InputError(
            f"{where}: {str(node)[:60]} is no node of a PartNet hierarchy; expected name, and objs or children"
        )
    for stem in stems:
        if not isinstance(stem, str) or not re.fullmatch(r"\w[\w.-]*", stem, re.ASCII):
            raise util.InputError(f"{where}: objs of {name}: {str(stem)[:60]!r} is no name of a file in objs/")
    return name, stems, children


def _read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise util.InputError(f"{path}: cannot be read as JSON ({error}); get the model again") from None
