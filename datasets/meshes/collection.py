"""Lists the instances in a folder of meshes as {name: load}. Names are fit for a folder; load() returns the Mesh.

Listing reads names and PartNet's meta.json only. A broken mesh raises InputError when it is loaded.
"""

import functools
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import util
from datasets.meshes import colour_transfer, named_mesh, part_maps, partnet, reading

SHAPENET_MODELS = ("models/model_normalized.obj", "model.obj")  # in the folder of an instance


def load_files(paths, root, part_map=None):
    """The Mesh of the mesh files of one object.

    root:     folder that contains everything that the files refer to
    part_map: the part_maps.PartMap that gives labels; without it all labels are 1
    """
    where = paths[0] if len(paths) == 1 else root
    _check_unique([path.stem for path in paths], root)
    whole = named_mesh.assemble([reading.read_below(root, path) for path in paths], where)
    labels = whole.mesh.labels if part_map is None else part_maps.labels(part_map, whole, where)
    return replace(whole.mesh, labels=labels, faults=whole.faults)


def load_coloured(folder, class_list, model_path, resolution):
    """The Mesh of a PartNet annotation with the colours of its ShapeNet model.

    model_path: OBJ file of the model
    resolution: of the colours, in triangles along the object's diagonal
    """
    if not model_path.is_file():
        raise util.InputError(f"{folder}: found neither {model_path} nor the same below a folder per synset; add the model")
    parts = partnet.load(folder, class_list)
    coloured = load_files([model_path], model_path.parents[1 if model_path.parent.name == "models" else 0])
    fit = colour_transfer.register(coloured, parts)
    if fit.median > colour_transfer.REFUSED:
        raise util.InputError(
            f"{folder}: does not fit {model_path}: found a median distance of {fit.median:.3f} diagonals, "
            f"expected at most {colour_transfer.REFUSED}; check that both are the same model"
        )
    try:
        mesh = colour_transfer.paint(parts, coloured, fit.similarity, resolution)
    except util.InputError as error:
        raise util.InputError(f"{model_path}: {error}") from None
    return replace(mesh, faults=(*parts.faults, *coloured.faults))


def list_partnet(folder, class_list_path, shapenet=None, resolution=256):
    """(class names by id, {name: load}) of PartNet v0. The name is the ShapeNet model's id if unique, else the folder's.

    folder:     contains a folder per annotation, or is one annotation
    shapenet:   folder of ShapeNet v2 with the models that give colours: <synset>/<id>/ or <id>/
    resolution: of these colours, in triangles along the diagonal
    """
    folder, class_list = Path(folder), partnet.load_class_list(class_list_path)
    folders = [folder, *_children(folder)]
    annotations = [path for path in folders if any((path / name).exists() for name in partnet.CONTENTS)]
    if folder in annotations:
        annotations = [folder]
    if not annotations:
        raise util.InputError(f"{folder}: no PartNet model found, expected folders with objs and {partnet.HIERARCHIES[0]}")
    names = [_name(path) for path in annotations]
    ids = [partnet.model_id(path) or name for path, name in zip(annotations, names)]
    taken = Counter(names) + Counter(i for i, name in zip(ids, names) if i != name)
    unique_names = [i if taken[i] == 1 else name for i, name in zip(ids, names)]
    if shapenet is None:
        loads = [functools.partial(partnet.load, path, class_list) for path in annotations]
    else:
        models = _find_shapenet(Path(shapenet), ids)
        loads = [
            functools.partial(load_coloured, path, class_list, model, resolution) for path, model in zip(annotations, models)
        ]
    return class_list.names, dict(zip(unique_names, loads))


def list_files(folder, part_map=None):
    """{name: load} of the mesh files in a folder, sorted by name; see `load_files` for `part_map`.

    An instance is a mesh file, a folder with mesh files, or a ShapeNet model in its folder, itself or in a synset's.
    """
    folder = Path(folder)
    found = []
    for child in [folder] if (folder / SHAPENET_MODELS[0]).is_file() else _children(folder):
        if _is_mesh(child):
            found.append((child.stem, [child], folder))
        elif child.is_dir():
            found += _in_folder(child)
    if not found:
        raise util.InputError(
            f"{folder}: no meshes found, expected {', '.join(reading.SUFFIXES)} files or folders with such files"
        )
    _check_unique([name for name, _, _ in found], folder)
    return {name: functools.partial(load_files, paths, root, part_map) for name, paths, root in found}


def _in_folder(folder):
    """(name, paths, root) of the instance in a folder, or of those one level below."""
    model = folder / SHAPENET_MODELS[0]
    if model.is_file():
        return [(_name(folder), [model], folder)]
    children = _children(folder)
    files = [child for child in children if _is_mesh(child)]
    if files:
        return [(folder.name, files, folder)]
    return [each for child in children if (child / SHAPENET_MODELS[0]).is_file() for each in _in_folder(child)]


def _check_unique(names, folder):
    for name, number in Counter(names).items():
        if number > 1:
            raise util.InputError(f"{folder}: found {number} meshes named {name}, expected one; rename or move the others")


def _find_shapenet(folder, model_ids):
    """The path of each model in a ShapeNet folder; that in the folder itself if there is none."""
    wanted, found = set(model_ids), {}
    for parent in [folder, *(child for child in _children(folder) if child.is_dir() and child.name not in wanted)]:
        for model_id in wanted & set(os.listdir(parent)) - set(found):  # listed once: a synset has thousands of models
            paths = [parent / model_id / name for name in SHAPENET_MODELS]
            found |= {model_id: path for path in reversed(paths) if path.is_file()}
    return [found.get(model_id, folder / model_id / SHAPENET_MODELS[0]) for model_id in model_ids]


def _name(folder):
    """The name of the folder, also of "."."""
    return os.path.basename(os.path.abspath(folder))


def _children(folder):
    """Entries of a folder, by name, without hidden ones."""
    with util.reading(folder, "a folder", OSError, advice="; give a folder of meshes"):
        return sorted(child for child in folder.iterdir() if not child.name.startswith("."))


def _is_mesh(path):
    return path.suffix.lower() in reading.SUFFIXES and path.is_file()
