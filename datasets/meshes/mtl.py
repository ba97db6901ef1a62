"""Reads the materials of OBJ files: MTL libraries and the textures that they name.

Shapes: M materials.
"""

import contextlib
import re
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

import util
from datasets.meshes import named_mesh, textures

_NUMBER = r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?\s+"
MAP_OPTIONS = re.compile(  # these precede the file name in map_Kd; none of them is applied
    rf"^(?:\s*(?:-(?:s|o|t)\s+(?:{_NUMBER}){{1,3}}|-mm\s+(?:{_NUMBER}){{2}}|-(?:bm|boost|texres)\s+{_NUMBER}"
    r"|-(?:blendu|blendv|cc|clamp)\s+(?:on|off)\s+|-(?:imfchan|type)\s+\w+\s+))+"
)
COMMENT = re.compile(r"(\.\w+)\s+#.*$")  # after the file name in map_Kd; "wood #2.png" is a name


@dataclass(frozen=True)
class Material:
    colour: tuple = named_mesh.DEFAULT_COLOUR  # Kd, (r, g, b) in [0, 1]
    texture: str = None  # map_Kd, the file name without options, with forward slashes


class Appearance(NamedTuple):
    """What the materials of a file look like. A material without a usable texture has its plain colour."""

    colours: np.ndarray  # (M, 3) sRGB in [0, 1]; the mean of the texture if there is one
    textures: dict  # {material id: (H, W, 4) uint8}
    is_defined: np.ndarray  # (M,) bool: a library defines the material
    faults: list


def read(libraries, names, used, path, open_file):
    """The Appearance of the materials of an OBJ file.

    libraries: what the `mtllib` lines of the file name
    names:     (M,) names of materials
    used:      sorted ids of the materials that faces have; only their textures are read
    path:      of the OBJ file
    open_file: see `reading.read`
    """
    defined, lost_libraries, faults = _read_libraries(libraries, path, open_file)
    materials = [defined.get(name, Material()) for name in names]
    colours, images = np.array([material.colour for material in materials]), {}
    missing, unreadable = lost_libraries.copy(), []
    for name in dict.fromkeys(materials[i].texture for i in used if materials[i].texture):
        try:
            images[name] = textures.decode(open_file(path.parent / _slashes(name)))
        except FileNotFoundError:
            missing.append(name)
        except util.InputError:  # of `open_file`, about an archive
            raise
        except Exception:  # Pillow's decoders raise many kinds of errors
            unreadable.append(name)
    texture_of = {i: images[materials[i].texture] for i in used if materials[i].texture in images}
    for i, image in texture_of.items():
        colours[i] = textures.mean_colour(image)
    # Without a library, materials may exist only to name parts. If a library is missing, that is the fault to report.
    undefined = [names[i] for i in used if names[i] and names[i] not in defined] if libraries and not lost_libraries else []
    for concerned, fault in (
        (missing, "not found in the folder of the object"),
        (unreadable, "cannot be read"),
        (undefined, f"not defined as a material in {named_mesh.listed(libraries)}"),
    ):
        if concerned:
            faults.append(f"{path}: {named_mesh.listed(concerned)} {fault}, plain colour used")
    return Appearance(colours, texture_of, np.array([name in defined for name in names]), faults)


def _read_libraries(libraries, path, open_file):
    """({material name: Material}, names of missing libraries, faults)."""
    materials, missing, faults = {}, [], []
    for line in dict.fromkeys(libraries):
        # A name may contain blanks, and a line may name several files.
        found = _open([line], path, open_file) or _open(line.split(), path, open_file)
        missing += [] if found else [line]
        for file, data in found.items():
            materials |= parse(data.decode("utf-8", errors="replace"), file, faults)
    return materials, missing, faults


def _open(names, path, open_file):
    """{path: bytes} of those files that exist, of the `names` that the file `path` gives them."""
    found = {}
    for file in (path.parent / _slashes(name) for name in names):
        with contextlib.suppress(FileNotFoundError):
            found[file] = open_file(file)
    return found


def _slashes(name):
    return name.replace("\\", "/")


def parse(text, name, faults):
    """{material name: Material} of an MTL file's text. Transparency is ignored.

    name:   the file's name in faults
    faults: list to which a sentence is added if lines cannot be read; such lines change nothing
    """
    materials, current, unread = {}, None, []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        keyword, rest = (line.split(None, 1) + ["", ""])[:2]
        keyword, rest = keyword.lower(), rest.strip()
        try:
            if keyword == "newmtl":
                current = rest or None
                if not rest:
                    raise ValueError(line)
                materials[current] = Material()
            elif keyword == "kd":
                materials[current] = replace(materials[current], colour=_colour(rest.partition("#")[0].split()))
            elif keyword == "map_kd":
                materials[current] = replace(materials[current], texture=_texture(rest))
        except (ValueError, KeyError):
            unread.append(f"line {number} ({line.strip()[:60]!r})")
    if unread:
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        faults.append(f"{name}: cannot read {unread[0]}{more}, plain colour used")
    return materials


def _colour(words):
    """(r, g, b) in [0, 1] of the numbers in a Kd line; a single number is a grey."""
    colour = np.array([float(word) for word in (words * 3 if len(words) == 1 else words)[:3]])
    if len(colour) < 3 or not np.isfinite(colour).all():
        raise ValueError(words)
    return tuple(colour.clip(0, 1).tolist())


def _texture(text):
    """The file name in a map_Kd line, None if there is none."""
    text = MAP_OPTIONS.sub("", text).strip()
    quoted = re.match(r"""(["'])(.+?)\1""", text)
    return _slashes(quoted[2] if quoted else COMMENT.sub(r"\1", text)) or None
