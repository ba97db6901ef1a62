"""Chairs and tables of Sweet Home 3D's furniture, with the part labels of furniture_labels/.

Members of the .sh3f archives (zip: OBJ, MTL, textures) are read by name and never written to disk.

Shapes: T triangles, F faces of an OBJ file.
"""

import errno
import functools
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

import util
from datasets.making import atomic_folders, carpentry, furniture_archives, render_options
from datasets.making.furniture_archives import PACKAGE
from datasets.meshes import named_mesh, reading, triangle_mesh
from datasets.meshes.textures import mean_colour
from options import at_least

LABELS_PATH = Path(__file__).parent / "furniture_labels" / "labels.json"  # the README beside it describes the format
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
    add = parser.add_argument
    add("--variants", type=at_least(0), default=0, help="recoloured and stretched copies of each training object")
    where = f"folder of the .sh3f archives, or the package {PACKAGE} 1.8 (default: apt-get downloads it to <out>/.cache)"
    add("--archive_dir", metavar="PATH", help=where)


def make(options):
    """Makes the class folder that the options describe, in the splits of labels.json."""
    atomic_folders.check_target(Path(options.out) / options.obj_name, options.overwrite)  # before any download
    category = options.obj_name.lower()
    labels = json.loads(LABELS_PATH.read_text(encoding="utf-8"))
    models = sorted((name, entry) for name, entry in labels["models"].items() if entry["category"] == category)
    names, cache = {entry["archive"] for _, entry in models}, Path(options.out).resolve() / ".cache"
    archives = furniture_archives.find(names, options.archive_dir, cache)
    loads, entries = {"train": {}, "val": {}, "test": {}}, {}
    for i, (model, entry) in enumerate(models):
        for variant in range(1 + (options.variants if entry["split"] == "train" else 0)):
            name = model.replace("/", "-") + (f"-v{variant}" if variant else "")
            seed = [options.seed, render_options.VARIANTS, i, variant] if variant else None
            loads[entry["split"]][name] = functools.partial(load, archives[entry["archive"]], entry, seed)
            entries[name] = entry
    texts = {"ATTRIBUTION.md": attribution({name: entries[name] for of_split in loads.values() for name in of_split})}
    render_options.write(options, labels["classes"][category], loads, {"variants": options.variants}, texts)


def attribution(entries):
    """A text with authors, licences and sources, which must go with every picture of these models.

    entries: {instance name: entry in labels.json}
    """
    columns = ((name, entry["author"], entry["licence"], entry.get("source") or "") for name, entry in entries.items())
    return ATTRIBUTION + "".join(f"| {' | '.join(row)} |\n" for row in columns)


def member_reader(archive_path):
    """A function for `reading.read`: from the path <archive>/<member> to the member's bytes."""
    with util.reading(archive_path, "a .sh3f (zip) archive", OSError, zipfile.BadZipFile):
        archive = zipfile.ZipFile(archive_path)

    def open_file(path):
        try:
            info = archive.getinfo(str(path).removeprefix(f"{archive_path}/"))
            if info.file_size > MAX_MEMBER_BYTES:
                raise util.InputError(f"{path}: found {info.file_size} bytes, expected at most {MAX_MEMBER_BYTES}")
            return archive.read(info)
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such member of the archive", str(path)) from None
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise util.InputError(f"{path}: cannot read ({error}); get the archive again") from None

    return open_file


def load(archive_path, entry, seed=None):
    """The Mesh of one model in canonical pose; with a seed, of a recoloured and stretched variant.

    entry: the model's entry in labels.json
    """
    path = archive_path / entry["member"]
    named = named_mesh.assemble([reading.read(path, member_reader(archive_path))], path)
    if named.num_faces != entry["faces"]:
        expected = f"expected {entry['faces']} as in the labels; use {PACKAGE} 1.8"
        raise util.InputError(f"{path}: found {named.num_faces} faces, {expected}")
    mesh, material_ids = named.mesh, named.names["material"].ids
    colours, texture_of = _materials(named)
    textures = {i: mesh.textures[texture_id] for i, texture_id in texture_of.items()}
    rng = np.random.default_rng(seed)
    if seed is not None:
        colours, textures = recolour(colours, textures, rng)

    rotation = np.array(entry["rotation"]).reshape(3, 3)
    positions = entry["scale"] * (mesh.vertices @ rotation.T) - np.array(entry["centre"])
    corners = np.concatenate([positions[mesh.triangles], mesh.corner_uv], axis=-1)  # (T, 3, 5)
    face_labels = np.concatenate([np.full(count, label) for label, count in entry["labels_rle"]])
    corners, labels, parents = cut_labels(corners, face_labels[named.face_ids], entry.get("cuts", []))
    stretch = 1.0 if seed is None else np.exp(rng.uniform(*np.log(STRETCH), size=3))
    mesh = triangle_mesh.Mesh(
        vertices=corners[..., :3].reshape(-1, 3) * stretch,
        triangles=np.arange(3 * len(corners)).reshape(-1, 3),
        labels=labels.astype(np.uint8),
        colours=colours[material_ids[parents]],
        texture_ids=mesh.texture_ids[parents],
        corner_uv=corners[..., 3:],
        textures=[textures[i] for i in sorted(textures, key=texture_of.get)],
    )
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
    whole = np.flatnonzero(labels < FIRST_CUT)
    done = [(corners[whole], labels[whole], whole)]
    by_cut = [np.flatnonzero(labels == FIRST_CUT + i) for i in range(len(cuts))]
    waiting = [(corners[ids], ids, tree) for ids, tree in zip(by_cut, cuts)]
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
    below = signed < 0
    num_below = below.sum(axis=1)
    crossing, whole = np.flatnonzero(num_below % 3), np.flatnonzero(num_below % 3 == 0)
    lone_is_below = num_below[crossing] == 1
    lone = (below[crossing] == lone_is_below[:, None]).argmax(axis=1)  # the corner that is alone on its side
    order = (lone[:, None] + np.arange(3)) % 3
    a, b, c = np.moveaxis(np.take_along_axis(corners[crossing], order[..., None], axis=1), 1, 0)
    at_a, at_b, at_c = np.take_along_axis(signed[crossing], order, axis=1).T[..., None]
    on_ab, on_ac = a + (b - a) * at_a / (at_a - at_b), a + (c - a) * at_a / (at_a - at_c)
    cut = [np.stack(triangle, axis=1) for triangle in ((a, on_ab, on_ac), (on_ab, b, c), (on_ab, c, on_ac))]
    pieces, sources = np.concatenate([corners[whole], *cut]), np.concatenate([whole, *[crossing] * 3])
    is_below = np.concatenate([below[whole, 0], lone_is_below, ~lone_is_below, ~lone_is_below])
    return (pieces[is_below], sources[is_below]), (pieces[~is_below], sources[~is_below])


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
