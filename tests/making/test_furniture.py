"""datasets/making/furniture.py, on a tiny archive made on the spot."""

import io
import json
import zipfile

import imageio.v3 as iio
import numpy as np
import pytest

import util
from datasets.making import carpentry, furniture, furniture_archives
from datasets.meshes import named_mesh, triangle_mesh

pytest.importorskip("mapbox_earcut")

# Lengths 2 x 2 x 1 (y up): a floor quad, given twice; an L of six corners standing on it, which a cut divides at
# half of its height; a triangle without any material.
OBJ = """
mtllib tiny.mtl
v -1 0 -1
v 1 0 -1
v 1 0 1
v -1 0 1
v -1 0 0
v 1 0 0
v 1 0.5 0
v 0 0.5 0
v 0 1 0
v -1 1 0
vt 0 0
vt 2 0
vt 2 2
vt 0 2
usemtl wood grain
f 1/1 2/2 3/3 4/4
usemtl plain
f 3 4 1 2
f -6//1 -5//1 -4//1 -3//1 -2//1 -1//1
usemtl nowhere
f 1 2 10
"""
MTL = """
newmtl wood grain
Kd 0 0 0
map_Kd wood.png
newmtl plain
Kd 0.8 0.1 0.2
map_Kd K:/pictures/lost.jpg
"""
TEXTURE = np.array([[[200, 100, 50], [40, 20, 10]], [[200, 100, 50], [40, 20, 10]]], dtype=np.uint8)
SCALE = 1 / 3  # the diagonal of 2 x 2 x 1
ENTRY = {
    "category": "chair",
    "split": "train",
    "archive": "Tiny.sh3f",
    "member": "tiny/chair/chair.obj",
    "faces": 4,
    "rotation": [1, 0, 0, 0, 0, -1, 0, 1, 0],
    "scale": SCALE,
    "centre": [0, 0, SCALE / 2],
    "labels_rle": [[2, 2], [100, 1], [4, 1]],
    "cuts": [{"plane": [0, 0, 1, 0], "neg": 3, "pos": 1}],
    "licence": "CC0-1.0",
    "author": "Nobody",
    "source": "",
}


def write_archive(path, parsed=OBJ, mtl=MTL):
    picture = io.BytesIO()
    iio.imwrite(picture, TEXTURE, extension=".png")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/chair/chair.obj", parsed)
        archive.writestr("tiny/chair/tiny.mtl", mtl)
        archive.writestr("tiny/chair/wood.png", picture.getvalue())
    return path


@pytest.fixture
def archive(tmp_path):
    return write_archive(tmp_path / "Tiny.sh3f")


def areas(mesh):
    a, b, c = np.moveaxis(mesh.corners, 1, 0)
    return np.linalg.norm(np.cross(b - a, c - a), axis=-1) / 2


def test_pose_is_canonical(archive):
    mesh = furniture.load(archive, ENTRY)
    points = mesh.vertices.reshape(-1, 3)
    assert np.allclose(points.min(axis=0), [-SCALE, -SCALE, -SCALE / 2])
    assert np.allclose(points.max(axis=0), [SCALE, SCALE, SCALE / 2])
    highest = points[points[:, 2].argmax()]
    assert np.allclose(highest, [-SCALE, 0, SCALE / 2])  # v -1 1 0


def test_labels_follow_the_faces_through_cutting_and_duplicates(archive):
    mesh = furniture.load(archive, ENTRY)
    area = {label: areas(mesh)[mesh.labels == label].sum() / SCALE**2 for label in (1, 2, 3, 4)}
    assert area[2] == pytest.approx(4)  # one floor of the two
    assert area[3] == pytest.approx(1)  # the lower half of the L: 2 x 0.5
    assert area[1] == pytest.approx(0.5)  # its upper half: 1 x 0.5, and nothing in the notch
    assert area[4] == pytest.approx(np.sqrt(2))
    assert (mesh.corners[mesh.labels == 1][..., 2] > -1e-9).all()
    assert (mesh.corners[mesh.labels == 3][..., 2] < 1e-9).all()


def test_materials(archive):
    mesh = furniture.load(archive, ENTRY)
    assert (mesh.texture_ids[mesh.labels == 2] == 0).all()
    assert np.array_equal(mesh.textures[0][..., :3], TEXTURE)
    assert np.allclose(mesh.corner_uv[mesh.labels == 2].max(axis=(0, 1)), 2)
    plain = np.isin(mesh.labels, (1, 3))
    assert (mesh.texture_ids[plain] == triangle_mesh.UNTEXTURED).all()  # its texture is not in the archive
    assert np.allclose(mesh.colours[plain], [0.8, furniture.ALBEDO_FLOOR, 0.2])
    assert np.allclose(mesh.colours[mesh.labels == 4], named_mesh.DEFAULT_COLOUR)


def test_variants_change_colours_and_proportions_only(archive):
    mesh = furniture.load(archive, ENTRY)
    variant, same, other = (furniture.load(archive, ENTRY, seed) for seed in (5, 5, 6))
    assert np.array_equal(variant.vertices, same.vertices) and np.array_equal(variant.colours, same.colours)
    assert not np.allclose(variant.vertices, other.vertices)
    assert np.array_equal(variant.labels, mesh.labels) and np.array_equal(variant.corner_uv, mesh.corner_uv)
    assert np.linalg.norm(np.ptp(variant.vertices, axis=0)) == pytest.approx(1)
    relative = np.ptp(variant.vertices, axis=0) / np.ptp(mesh.vertices, axis=0)
    assert not np.allclose(relative, relative[0], atol=0.01)
    assert not np.array_equal(variant.textures[0], mesh.textures[0])
    light, dark = variant.textures[0][0, :, :3].mean(axis=-1)
    assert light > 2 * dark  # the stripes stay


@pytest.mark.parametrize("height", [0.1, 0.5, 0.9])
def test_splitting_keeps_area_sides_and_interpolated_values(height):
    rng = np.random.default_rng(0)
    positions = rng.random((50, 3, 3))
    corners = np.concatenate([positions, positions[..., :2] * 3 + 1], axis=-1)
    below, beyond = furniture.split_at_plane(corners, [0, 0, 1, height])

    def area(pieces):
        edges = pieces[:, 1:, :3] - pieces[:, :1, :3]
        return np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=-1) / 2

    total = np.zeros(50)
    for pieces, sources in (below, beyond):
        np.add.at(total, sources, area(pieces))
        assert np.allclose(pieces[..., 3:], pieces[..., :2] * 3 + 1)
    assert np.allclose(total, area(corners))
    assert (below[0][..., 2] <= height + 1e-12).all() and (beyond[0][..., 2] >= height - 1e-12).all()


def test_wrong_archives_are_refused(tmp_path):
    with pytest.raises(util.InputError, match=r"5 faces, expected 4"):
        furniture.load(write_archive(tmp_path / "Tiny.sh3f", OBJ + "f 1 2 3\n"), ENTRY)
    (tmp_path / "Tiny.sh3f").write_text("no zip")
    with pytest.raises(util.InputError, match=r"Tiny\.sh3f: cannot be read as a \.sh3f"):
        furniture.load(tmp_path / "Tiny.sh3f", ENTRY)


def test_archives_are_found_at_any_depth(tmp_path):
    (tmp_path / "usr" / "share").mkdir(parents=True)
    path = write_archive(tmp_path / "usr" / "share" / "Tiny.sh3f")
    assert furniture_archives.find({"Tiny.sh3f"}, tmp_path, tmp_path / "cache") == {"Tiny.sh3f": path}
    with pytest.raises(util.InputError, match=r"Other\.sh3f not found"):
        furniture_archives.find({"Tiny.sh3f", "Other.sh3f"}, tmp_path, tmp_path / "cache")


def test_without_apt_get_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(util.InputError, match=r"apt-get is not installed; .*--archive_dir"):
        furniture_archives.find({"Tiny.sh3f"}, None, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_failing_download_gives_its_reason(tmp_path, monkeypatch):
    apt_get = tmp_path / "apt-get"
    apt_get.write_text("#!/bin/sh\necho 'E: no network' >&2\nexit 100\n")
    apt_get.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(util.InputError, match=r"E: no network; .*--archive_dir"):
        furniture_archives.find({"Tiny.sh3f"}, None, tmp_path / "cache")


def test_catalogue_is_whole():
    classes, models = json.loads(furniture.LABELS_PATH.read_text(encoding="utf-8")).values()
    assert classes == {name.lower(): classes for name, classes in carpentry.CLASS_NAMES.items()}
    assert len(models) == 75
    readme = (furniture.LABELS_PATH.parent / "README.md").read_text()
    for name, entry in models.items():
        assert sum(count for count, _ in map(reversed, entry["labels_rle"])) == entry["faces"]
        assert name in readme and entry["author"] in readme
    assert "Nobody | CC0-1.0" in furniture.attribution({"tiny": ENTRY})
    json.dumps(models)
