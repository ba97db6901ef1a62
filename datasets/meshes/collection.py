"""What a folder of meshes holds: a list of instances, each with a function that reads it.

Listing looks at names only (and at each PartNet meta.json), so that one broken mesh is told when its turn comes.
"""

import functools
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

import util
from datasets.meshes import colour_transfer, named_mesh, part_maps, reading, triangle_mesh
from datasets.meshes import partnet as partnet_files

SHAPENET_MODELS = ("models/model_normalized.obj", "model.obj")  # in the folder of an instance


@dataclass(frozen=True)
class MeshSource:
    """An instance.

    name: unique in its list, fit for a folder
    load: () -> triangle_mesh.LoadedMesh; raises util.InputError for what cannot be used at all
    """

    name: str
    load: Callable


# ---------------------------------------------------------------------------------------------- what there is


def partnet(folder, class_list_path, shapenet=None, resolution=256):
    """(class names by id, MeshSources) of PartNet v0; named by their ShapeNet model where that is unique, else by folder.

    folder:     a folder per annotation, or one annotation
    shapenet:   folder of ShapeNet v2, from whose models of the same id colours come: <synset>/<id>/ or <id>/
    resolution: of these colours, in triangles along the diagonal
    """
    folder, class_list = _existing(folder), partnet_files.load_class_list(class_list_path)
    annotations = (
        [folder]
        if partnet_files.is_annotation(folder)
        else [child for child in _children(folder) if child.is_dir() and partnet_files.is_annotation(child)]
    )
    if not annotations:
        raise util.InputError(
            f"{folder}: no PartNet model found; expected a folder per model with objs and {partnet_files.HIERARCHIES[0]}"
        )
    model_ids = [partnet_files.model_id(path) for path in annotations]
    loads = [functools.partial(partnet_files.load, path, class_list) for path in annotations]
    if shapenet is not None:
        wanted = [model_id or _name(path) for model_id, path in zip(model_ids, annotations)]
        found = _find_shapenet(_existing(shapenet), wanted)
        loads = [
            functools.partial(load_coloured, path, class_list, shapenet, model_id, found.get(model_id), resolution)
            for path, model_id in zip(annotations, wanted)
        ]
    names = [_name(path) for path in annotations]
    taken = Counter(names) + Counter(model_id for model_id, name in zip(model_ids, names) if model_id != name)
    sources = [
        MeshSource(model_id if model_id and taken[model_id] == 1 else name, load)
        for name, model_id, load in zip(names, model_ids, loads)
    ]
    return class_list.names, sources


def with_parts(folder, part_map_path):
    """(class names by id, MeshSources) of meshes whose parts a YAML map takes to classes, see `part_maps`."""
    part_map = part_maps.load(part_map_path)
    return part_map.class_names, [
        MeshSource(name, functools.partial(load_with_parts, *where, part_map)) for name, *where in _instances(folder)
    ]


def unlabelled(folder):
    """MeshSources of any meshes, all of them labelled 1."""
    return [MeshSource(name, functools.partial(load_unlabelled, *where)) for name, *where in _instances(folder)]


def _instances(folder):
    """(name, mesh files, folder below which everything of them lies) of each instance.

    An instance is a mesh file, a folder with mesh files, or one with a ShapeNet model, itself or in a synset's folder.
    """
    folder = _existing(folder)
    model = folder / SHAPENET_MODELS[0]
    if model.is_file():
        return [(_name(folder), [model], folder)]
    found = []
    for child in _children(folder):
        if _is_mesh(child):
            found.append((child.stem, [child], folder))
        elif child.is_dir():
            found += _in_folder(child)
    if not found:
        raise util.InputError(
            f"{folder}: no meshes found; expected {', '.join(reading.SUFFIXES)} files, or a folder per "
            f"object with such files or {SHAPENET_MODELS[0]}"
        )
    for name, number in Counter(name for name, *_ in found).items():
        if number > 1:
            raise util.InputError(f"{folder}: {number} meshes are called {name}; rename all but one, or move them away")
    return found


def _in_folder(folder):
    """The instance in a folder, or those one level below."""
    model = folder / SHAPENET_MODELS[0]
    if model.is_file():
        return [(folder.name, [model], folder)]
    children = _children(folder)
    files = [child for child in children if _is_mesh(child)]
    if files:
        return [(folder.name, files, folder)]
    below = [child for child in children if (child / SHAPENET_MODELS[0]).is_file()]
    return [(child.name, [child / SHAPENET_MODELS[0]], child) for child in below]


def _find_shapenet(folder, model_ids):
    """{id: path of the model} of those that a ShapeNet folder has."""
    missing, found = set(model_ids), {}
    for parent in [folder, *(child for child in _children(folder) if child.is_dir() and child.name not in missing)]:
        for model_id in sorted(missing & set(os.listdir(parent))):
            paths = [parent / model_id / name for name in SHAPENET_MODELS]
            path = next((path for path in paths if path.is_file()), None)
            if path is not None:
                found[model_id] = path
                missing.discard(model_id)
        if not missing:
            break
    return found


def _existing(folder):
    if not Path(folder).is_dir():
        raise util.InputError(f"{folder}: no such folder; expected a folder of meshes")
    return Path(folder)


def _name(folder):
    """The folder's own name, also of "."."""
    return os.path.basename(os.path.abspath(folder))


def _children(folder):
    """What is in a folder, by name, without hidden files."""
    try:
        return sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    except OSError as error:
        raise util.InputError(f"{folder}: cannot be listed ({error.strerror})") from None


def _is_mesh(path):
    return path.suffix.lower() in reading.SUFFIXES and path.is_file()


# ------------------------------------------------------------------------------------------------ reading one


def load_coloured(folder, class_list, shapenet, model_id, model_path, resolution):
    """The LoadedMesh of a PartNet annotation with the colours of its ShapeNet model."""
    if model_path is None:
        raise util.InputError(
            f"{folder}: the model {model_id} is not in {shapenet}; expected "
            f"{model_id}/{SHAPENET_MODELS[0]}, there or in a folder per synset"
        )
    parts = partnet_files.load(folder, class_list)
    coloured = _read_all([model_path], shapenet_root(model_path), model_path)
    fit = colour_transfer.register(coloured.mesh, parts.mesh)
    if fit.median > colour_transfer.REFUSED:
        raise util.InputError(
            f"{folder}: does not fit {model_path}: half of the surfaces lie {fit.median:.3f} diagonals apart or more, "
            f"expected at most {colour_transfer.REFUSED}; check that both are of one model"
        )
    try:
        mesh = colour_transfer.paint(parts.mesh, coloured.mesh, fit.similarity, resolution)
    except util.InputError as error:
        raise util.InputError(f"{model_path}: {error}") from None
    return triangle_mesh.LoadedMesh(mesh, (*parts.faults, *coloured.faults))


def shapenet_root(model_path):
    """The folder of the instance of a ShapeNet model."""
    return model_path.parent.parent if model_path.parent.name == "models" else model_path.parent


def load_with_parts(paths, root, part_map):
    """The LoadedMesh of an instance's files, labelled by a PartMap."""
    where = paths[0] if len(paths) == 1 else root
    whole = _read_all(paths, root, where)
    labels = part_maps.labels(part_map, whole, where)
    return triangle_mesh.LoadedMesh(replace(whole.mesh, labels=labels), whole.faults)


def load_unlabelled(paths, root):
    """The LoadedMesh of an instance's files, labelled 1."""
    whole = _read_all(paths, root, paths[0] if len(paths) == 1 else root)
    return triangle_mesh.LoadedMesh(whole.mesh, whole.faults)


def _read_all(paths, root, where):
    """The NamedMesh of the files of one instance."""
    for stem, number in Counter(path.stem for path in paths).items():
        if number > 1:
            raise util.InputError(f"{root}: {number} meshes are called {stem}; keep one form of it")
    return named_mesh.assemble([reading.read_below(root, path) for path in paths], where)
