"""Chairs and tables of Sweet Home 3D's furniture, with the part labels of furniture_labels/.

Members of the .sh3f archives (zip: OBJ, MTL, textures) are read by name and never written to disk.

Shapes: T triangles, F faces of an OBJ file.
"""

import errno
import functools
import json
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

import util
from datasets.making import atomic_folders, carpentry, furniture_archives, render_options
from datasets.making.furniture_archives import PACKAGE
from datasets.meshes import named_mesh, reading, triangle_mesh
from datasets.meshes.textures import mean_colour
from options import at_least

LABELS_PATH = Path(__file__).parent / "furniture_labels" / "labels.json"
FIRST_CUT = 100  # a face label from here on names a decision tree: cuts[label - 100]
ALBEDO_FLOOR = 0.12  # several materials are black, which would hide the shape
MAX_MEMBER_BYTES = 2**28
STRETCH = (0.8, 1.25)  # of variants, along each axis
ATTRIBUTION = """\
# Who made these models

The pictures are renders of meshes that come with Sweet Home 3D's additional furniture, converted to OBJ
by Emmanuel Puybaret / eTeks. Pose, scale and lighting were changed; instances whose name ends in -v and
a number are also recoloured and stretched. The licences are CC0 1.0, CC BY 3.0
(https://creativecommons.org/licenses/by/3.0/) and CC BY 3.0 US
(https://creativecommons.org/licenses/by/3.0/us/).

| instance | author | licence | source |
|---|---|---|---|
"""


def add_options(parser):
    render_options.add_options(parser, views=50, sidelength=128, obj_names=sorted(carpentry.CLASS_NAMES))
    parser.add_argument(
        "--variants", type=at_least(0), default=0, help="recoloured and stretched copies of each training object"
    )
    parser.add_argument(
        "--archive_dir",
        metavar="PATH",
        help=f"folder with the .sh3f archives, or the Debian package {PACKAGE} 1.8 (default: apt-get downloads the package "
        "into <out>/.cache)",
    )


def make(options):
    """Makes the class folder that the options describe, in the splits of labels.json."""
    atomic_folders.check_target(Path(options.out) / options.obj_name, options.overwrite)  # before any download
    category = options.obj_name.lower()
    classes, models = catalogue()
    models = sorted((name, entry) for name, entry in models.items() if entry["category"] == category)
    archives = furniture_archives.find(
        {entry["archive"] for _, entry in models}, options.archive_dir, cache=Path(options.out).resolve() / ".cache"
    )
    loads, entries = {"train": {}, "val": {}, "test": {}}, {}
    for split, of_split in loads.items():
        for i, (model, entry) in enumerate(models):
            num_variants = options.variants if split == "train" else 0
            for variant in range(1 + num_variants if entry["split"] == split else 0):
                name = model.replace("/", "-") + (f"-v{variant}" if variant else "")
                seed = [options.seed, render_options.VARIANTS, i, variant] if variant else None
                of_split[name] = functools.partial(load_instance, archives[entry["archive"]], entry, seed)
                entries[name] = entry
    texts = {"ATTRIBUTION.md": attribution(entries)}
    render_options.write(options, classes[category], loads, {"variants": options.variants}, texts)


def load_instance(archive_path, entry, seed):
    """The LoadedMesh of a model, or of a variant of it if a seed is given."""
    return triangle_mesh.LoadedMesh(load(archive_path, entry, None if seed is None else np.random.default_rng(seed)))


def catalogue():
    """(class names by category, entry by model name) of labels.json; its README describes the format."""
    labels = json.loads(LABELS_PATH.read_text(encoding="utf-8"))
    return labels["classes"], labels["models"]


def attribution(entries):
    """A text with authors, licences and sources, which must go with every picture of these models.

    entries: {instance name: entry in labels.json}
    """
    columns = ((name, entry["author"], entry["licence"], entry.get("source") or "") for name, entry in entries.items())
    return ATTRIBUTION + "".join(f"| {' | '.join(row)} |\n" for row in columns)


class Archive:
    """A zip archive whose members are read by their path, which is <archive>/<member>."""

    def __init__(self, path):
        self.path = Path(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise util.InputError(f"{path}: not a readable .sh3f (zip) archive ({error})") from None
        self._members = set(self._zip.namelist())

    def open_file(self, path):
        """The bytes of a member, for `reading.read`. Raises FileNotFoundError if there is none of this name."""
        member = str(path).removeprefix(f"{self.path}/")
        if member not in self._members:
            raise FileNotFoundError(errno.ENOENT, "no such member of the archive", str(path))
        try:
            info = self._zip.getinfo(member)
            if info.file_size > MAX_MEMBER_BYTES:
                raise util.InputError(f"{path}: found {info.file_size} bytes, expected at most {MAX_MEMBER_BYTES}")
            return self._zip.read(info)
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise util.InputError(f"{path}: cannot read ({error}); get the archive again") from None


# --------------------------------------------------------------------------------------------------- meshes


def load(archive_path, entry, variant_rng=None):
    """The labelled mesh of one model in canonical pose. With a generator it is a recoloured, stretched variant.

    entry: the model's entry in labels.json
    """
    path = Path(archive_path) / entry["member"]
    named = named_mesh.assemble([reading.read(path, Archive(archive_path).open_file)], path)
    if named.num_faces != entry["faces"]:
        raise util.InputError(
            f"{path}: found {named.num_faces} faces, the labels are for {entry['faces']}; use {PACKAGE} 1.8"
        )
    mesh, material_ids = named.mesh, named.names["material"].ids
    colours, texture_of = _materials(named)
    textures = {i: mesh.textures[texture_id] for i, texture_id in texture_of.items()}
    if variant_rng is not None:
        colours, textures = recolour(colours, textures, variant_rng)

    rotation = np.array(entry["rotation"]).reshape(3, 3)
    positions = entry["scale"] * (mesh.vertices @ rotation.T) - np.array(entry["centre"])
    corners = np.concatenate([positions[mesh.triangles], mesh.corner_uv], axis=-1)  # (T, 3, 5)
    face_labels = np.concatenate([np.full(count, label) for label, count in entry["labels_rle"]])
    corners, labels, parents = cut_labels(corners, face_labels[named.face_ids], entry.get("cuts", []))
    mesh = triangle_mesh.Mesh(
        vertices=corners[..., :3].reshape(-1, 3),
        triangles=np.arange(3 * len(corners)).reshape(-1, 3),
        labels=labels.astype(np.uint8),
        colours=colours[material_ids[parents]],
        texture_ids=mesh.texture_ids[parents],
        corner_uv=corners[..., 3:],
        textures=[textures[i] for i in sorted(textures, key=texture_of.get)],
    )
    if variant_rng is not None:
        stretch = np.exp(variant_rng.uniform(*np.log(STRETCH), size=3))
        mesh = replace(mesh, vertices=mesh.vertices * stretch)
    return triangle_mesh.to_unit_diagonal(mesh)


def _materials(named):
    """Per material of a NamedMesh: colours (M, 3), and {material id: texture id} of those with a texture."""
    names, ids = named.names["material"]
    colours = np.zeros((len(names), 3))
    colours[ids] = named.mesh.colours
    texture_of = {i: named.mesh.texture_ids[ids == i].max() for i in np.unique(ids).tolist()}
    return np.maximum(colours, ALBEDO_FLOOR), {i: t for i, t in texture_of.items() if t != triangle_mesh.UNTEXTURED}


def cut_labels(corners, labels, cuts):
    """Splits the triangles that cross a part boundary, so that each has one class.

    corners: (T, 3, 3 + n) canonical position and n further values per corner, which are interpolated
    labels:  (T,) class ids, or FIRST_CUT + index into `cuts`
    returns  corners (T', 3, 3 + n), labels (T',), and the index of each one's original triangle (T',)
    """
    done = [(corners[labels < FIRST_CUT], labels[labels < FIRST_CUT], np.flatnonzero(labels < FIRST_CUT))]
    waiting = [
        (corners[labels == FIRST_CUT + i], np.flatnonzero(labels == FIRST_CUT + i), tree) for i, tree in enumerate(cuts)
    ]
    while waiting:
        corners, parents, node = waiting.pop()
        if isinstance(node, dict):
            for side, (pieces, sources) in zip(("neg", "pos"), split_at_plane(corners, node["plane"])):
                waiting.append((pieces, parents[sources], node[side]))
        else:
            done.append((corners, np.full(len(corners), node), parents))
    return tuple(np.concatenate(column) for column in zip(*done))


def split_at_plane(corners, plane):
    """Cuts triangles (T, 3, 3 + n) at the plane a*x + b*y + c*z = d.

    returns two pairs, for the sides below d and from d on: pieces (T', 3, 3 + n), and indices of their triangles (T',)
    """
    signed = corners[..., :3] @ np.array(plane[:3]) - plane[3]  # (T, 3)
    beyond = signed >= 0
    num_beyond = beyond.sum(axis=1)
    crossing = np.flatnonzero((num_beyond == 1) | (num_beyond == 2))
    lone_is_beyond = num_beyond[crossing] == 1
    lone = (beyond[crossing] == lone_is_beyond[:, None]).argmax(axis=1)  # the corner that is alone on its side
    order = (lone[:, None] + np.arange(3)) % 3
    a, b, c = np.moveaxis(np.take_along_axis(corners[crossing], order[..., None], axis=1), 1, 0)
    at_a, at_b, at_c = np.take_along_axis(signed[crossing], order, axis=1).T[..., None]
    on_ab, on_ac = a + (b - a) * at_a / (at_a - at_b), a + (c - a) * at_a / (at_a - at_c)
    tip = np.stack([a, on_ab, on_ac], axis=1)
    rest = np.concatenate([np.stack([on_ab, b, c], axis=1), np.stack([on_ab, c, on_ac], axis=1)])

    sides = []
    for is_beyond in (False, True):
        whole = np.flatnonzero(num_beyond == (3 if is_beyond else 0))
        has_tip = lone_is_beyond == is_beyond
        has_rest = np.tile(~has_tip, 2)
        sides.append(
            (
                np.concatenate([corners[whole], tip[has_tip], rest[has_rest]]),
                np.concatenate([whole, crossing[has_tip], np.tile(crossing, 2)[has_rest]]),
            )
        )
    return sides


# ------------------------------------------------------------------------------------------------- variants


def recolour(colours, textures, rng):
    """Mixes each material with a random tint and keeps its pattern of light and dark.

    colours (M, 3) in [0, 1] and {material id: texture (H, W, 4) uint8}, as `_materials` returns them. The tint does not
    depend on the part.
    """
    colours, textures = colours.copy(), dict(textures)
    for i in range(len(colours)):
        tint, strength = random_tint(rng), rng.uniform(0.5, 0.9)
        if i in textures:
            rgb = _tinted(textures[i][..., :3] / 255, mean_colour(textures[i]), tint, strength)
            textures[i] = np.concatenate([(255 * rgb + 0.5).astype(np.uint8), textures[i][..., 3:]], axis=-1)
        colours[i] = np.maximum(_tinted(colours[i], colours[i], tint, strength), ALBEDO_FLOOR)
    return colours, textures


def random_tint(rng):
    """A muted sRGB colour (3,) of any hue."""
    hue = 2 * np.pi * (rng.random() + np.arange(3) / 3)
    grey = rng.uniform(0.3, 0.75)
    return np.clip(grey + rng.uniform(0.05, 0.25) * np.cos(hue), 0, 1)


def _tinted(rgb, mean, tint, strength):
    """rgb (..., 3) mixed with the tint (3,), whose brightness is scaled by that of rgb over that of the mean (3,)."""
    brightness = rgb.mean(axis=-1, keepdims=True) / max(mean.mean(), ALBEDO_FLOOR)
    return np.clip((1 - strength) * rgb + strength * tint * brightness, 0, 1)
