"""Lists the instances in a folder of meshes. An instance has a `name`, unique and fit for a folder, and a `load()`.

Listing reads names and PartNet's meta.json only. A broken mesh raises InputError when it is loaded.
"""

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import util
from datasets.meshes import colour_transfer, named_mesh, part_maps, partnet, reading
from datasets.meshes.triangle_mesh import LoadedMesh

SHAPENET_MODELS = ("models/model_normalized.obj", "model.obj")  # in the folder of an instance


@dataclass(frozen=True)
class PlainMesh:
    """An instance in one or more mesh files.

    root:     folder that contains everything that the files refer to
    part_map: the part_maps.PartMap that gives labels; without it all labels are 1
    """

    name: str
    paths: list
    root: Path
    part_map: part_maps.PartMap = None

    def load(self):
        """The LoadedMesh of the files."""
        where = self.paths[0] if len(self.paths) == 1 else self.root
        for stem, number in Counter(path.stem for path in self.paths).items():
            if number > 1:
                raise util.InputError(f"{self.root}: found {number} meshes named {stem}, expected one; remove the others")
        whole = named_mesh.assemble([reading.read_below(self.root, path) for path in self.paths], where)
        mesh = whole.mesh
        if self.part_map is not None:
            mesh = replace(mesh, labels=part_maps.labels(self.part_map, whole, where))
        return LoadedMesh(mesh, whole.faults)


@dataclass(frozen=True)
class PartNetMesh:
    """An annotation of PartNet, with a plain colour."""

    name: str
    folder: Path
    class_list: partnet.ClassList

    def load(self):
        """The LoadedMesh of the annotation."""
        return partnet.load(self.folder, self.class_list)


@dataclass(frozen=True)
class ColouredPartNetMesh(PartNetMesh):
    """An annotation of PartNet with the colours of its ShapeNet model.

    shapenet:   folder of ShapeNet v2
    model_id:   of the model
    model_path: of its OBJ file, None if `shapenet` lacks it
    resolution: of the colours, in triangles along the object's diagonal
    """

    shapenet: Path
    model_id: str
    model_path: Path
    resolution: int

    def load(self):
        """The LoadedMesh of the annotation, coloured."""
        if self.model_path is None:
            raise util.InputError(
                f"{self.folder}: model {self.model_id} not found in {self.shapenet}, expected "
                f"{self.model_id}/{SHAPENET_MODELS[0]} there or in a folder per synset"
            )
        parts = super().load()
        root = self.model_path.parents[1 if self.model_path.parent.name == "models" else 0]
        coloured = PlainMesh(self.name, [self.model_path], root).load()
        fit = colour_transfer.register(coloured.mesh, parts.mesh)
        if fit.median > colour_transfer.REFUSED:
            raise util.InputError(
                f"{self.folder}: does not fit {self.model_path}: found a median distance of {fit.median:.3f} diagonals, "
                f"expected at most {colour_transfer.REFUSED}; check that both are the same model"
            )
        try:
            mesh = colour_transfer.paint(parts.mesh, coloured.mesh, fit.similarity, self.resolution)
        except util.InputError as error:
            raise util.InputError(f"{self.model_path}: {error}") from None
        return LoadedMesh(mesh, (*parts.faults, *coloured.faults))


def list_partnet(folder, class_list_path, shapenet=None, resolution=256):
    """(class names by id, instances) of PartNet v0. The name is the ShapeNet model's id if unique, else the folder's.

    folder:     contains a folder per annotation, or is one annotation
    shapenet:   folder of ShapeNet v2 with the models that give colours: <synset>/<id>/ or <id>/
    resolution: of these colours, in triangles along the diagonal
    """
    folder, class_list = _existing(folder), partnet.load_class_list(class_list_path)
    annotations = [path for path in [folder, *_children(folder)] if path.is_dir() and partnet.is_annotation(path)]
    if folder in annotations:
        annotations = [folder]
    if not annotations:
        raise util.InputError(
            f"{folder}: no PartNet model found, expected a folder per model with objs and {partnet.HIERARCHIES[0]}"
        )
    names = [_name(path) for path in annotations]
    ids = [partnet.model_id(path) or name for path, name in zip(annotations, names)]
    taken = Counter(names) + Counter(i for i, name in zip(ids, names) if i != name)
    unique_names = [i if taken[i] == 1 else name for i, name in zip(ids, names)]
    instances = [PartNetMesh(name, path, class_list) for name, path in zip(unique_names, annotations)]
    if shapenet is not None:
        found = _find_shapenet(_existing(shapenet), ids)
        instances = [
            ColouredPartNetMesh(each.name, each.folder, class_list, shapenet, model_id, found.get(model_id), resolution)
            for each, model_id in zip(instances, ids)
        ]
    return class_list.names, instances


def list_with_parts(folder, part_map_path):
    """(class names by id, instances) of meshes whose part names a YAML file maps to classes; see part_maps.py."""
    part_map = part_maps.load(part_map_path)
    return part_map.class_names, [replace(instance, part_map=part_map) for instance in list_unlabelled(folder)]


def list_unlabelled(folder):
    """The PlainMesh instances in a folder, sorted by name, all labels 1.

    An instance is a mesh file, a folder with mesh files, or a ShapeNet model in its folder, itself or in a synset's.
    """
    folder = _existing(folder)
    if (folder / SHAPENET_MODELS[0]).is_file():
        return _in_folder(folder)
    found = []
    for child in _children(folder):
        if _is_mesh(child):
            found.append(PlainMesh(child.stem, [child], folder))
        elif child.is_dir():
            found += _in_folder(child)
    if not found:
        raise util.InputError(
            f"{folder}: no meshes found, expected {', '.join(reading.SUFFIXES)} files, or a folder per "
            f"object with such files or {SHAPENET_MODELS[0]}"
        )
    for name, number in Counter(instance.name for instance in found).items():
        if number > 1:
            raise util.InputError(f"{folder}: found {number} meshes named {name}, expected one; rename or move the others")
    return found


def _in_folder(folder):
    """The instance in a folder, or those one level below."""
    model = folder / SHAPENET_MODELS[0]
    if model.is_file():
        return [PlainMesh(_name(folder), [model], folder)]
    children = _children(folder)
    files = [child for child in children if _is_mesh(child)]
    if files:
        return [PlainMesh(folder.name, files, folder)]
    return [each for child in children if (child / SHAPENET_MODELS[0]).is_file() for each in _in_folder(child)]


def _find_shapenet(folder, model_ids):
    """{id: path of the model} of those that a ShapeNet folder has."""
    missing, found = set(model_ids), {}
    for parent in [folder, *(child for child in _children(folder) if child.is_dir() and child.name not in missing)]:
        for model_id in missing & set(os.listdir(parent)):  # listed once, since a synset has thousands of models
            paths = [parent / model_id / name for name in SHAPENET_MODELS]
            found |= {model_id: path for path in reversed(paths) if path.is_file()}
        missing -= set(found)
        if not missing:
            break
    return found


def _existing(folder):
    if not Path(folder).is_dir():
        raise util.InputError(f"{folder}: no such folder, expected a folder of meshes")
    return Path(folder)


def _name(folder):
    """The name of the folder, also of "."."""
    return os.path.basename(os.path.abspath(folder))


def _children(folder):
    """Entries of a folder, by name, without hidden ones."""
    try:
        return sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    except OSError as error:
        raise util.InputError(f"{folder}: cannot list the folder ({error.strerror})") from None


def _is_mesh(path):
    return path.suffix.lower() in reading.SUFFIXES and path.is_file()
