"""datasets/meshes/collection.py: which instances a folder holds, and loading them."""

import json
import pickle

import imageio.v3 as iio
import numpy as np
import pytest

import util
from datasets.meshes import collection, colour_transfer, part_maps, triangle_mesh

MAP = "classes: [back, seat]\nparts:\n  back*: back\n  seat: seat\n  3: seat\n"
CLASS_LIST = "1 chair/chair_back subcomponents\n2 chair/chair_seat leaf\n"
BOXES = {"chair_back": ((-0.4, 0.0, -0.5), (0.6, 1.0, -0.4)), "chair_seat": ((-0.4, -0.1, -0.5), (0.6, 0.0, 0.5))}
SCALE, OFFSET = 0.6, (0.3, -0.2, 0.1)  # of the ShapeNet twin, which also has a quarter turn


def box_obj(low, high, first=1):
    """`v` and `f` lines of a closed box."""
    corners = np.array([low, high])
    points = [(corners[i, 0], corners[j, 1], corners[k, 2]) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    faces = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
    return "".join(f"v {x} {y} {z}\n" for x, y, z in points) + "".join(
        "f " + " ".join(str(first + i) for i in face) + "\n" for face in faces
    )


def write_annotation(folder, model_id=None):
    (folder / "objs").mkdir(parents=True)
    children = []
    for i, (name, box) in enumerate(BOXES.items()):
        (folder / "objs" / f"new-{i}.obj").write_text(box_obj(*box))
        children.append({"id": i, "name": name, "text": name, "objs": [f"new-{i}"]})
    tree = [{"id": 9, "name": "chair", "text": "Chair", "children": children}]
    (folder / "result_after_merging.json").write_text(json.dumps(tree))
    if model_id:
        (folder / "meta.json").write_text(json.dumps({"model_id": model_id, "anno_id": folder.name}))
    return folder


def write_twin(folder):
    """The same boxes after a quarter turn about y, scale and offset; red where PartNet's x < 0.1, green elsewhere.

    Behind (PartNet's z) the back is plain blue, by another material.
    """
    (folder / "models").mkdir(parents=True)
    (folder / "images").mkdir()
    iio.imwrite(folder / "images" / "texture0.png", np.array([[[255, 0, 0], [0, 255, 0]]], dtype=np.uint8))
    (folder / "models" / "model_normalized.mtl").write_text(
        "newmtl halves\nKd 0 0 0\nmap_Kd ../images/texture0.png\nnewmtl blue\nKd 0 0 1\n"
    )
    lines, first = ["mtllib model_normalized.mtl"], 1
    for box in BOXES.values():
        lines.append("usemtl halves")
        for number, line in enumerate(box_obj(*box, first).splitlines()):
            keyword, *words = line.split()
            if keyword == "v":
                x, y, z = map(float, words)
                moved = SCALE * np.array([z, y, -x]) + OFFSET
                lines += [f"v {moved[0]} {moved[1]} {moved[2]}", f"vt {0.01 + 0.98 * (x + 0.4)} 0"]
            elif number == 12 and box is BOXES["chair_back"]:  # the face at the lower z
                lines += ["usemtl blue", f"f {' '.join(words)}", "usemtl halves"]
            else:
                lines.append("f " + " ".join(f"{word}/{word}" for word in words))
        first += 8
    (folder / "models" / "model_normalized.obj").write_text("\n".join(lines))
    return folder


@pytest.fixture
def class_list(tmp_path):
    (tmp_path / "Chair-level-1.txt").write_text(CLASS_LIST)
    return tmp_path / "Chair-level-1.txt"


@pytest.fixture
def part_map(tmp_path):
    (tmp_path / "map.yml").write_text(MAP)
    return part_maps.load(tmp_path / "map.yml")


def run(load):
    return pickle.loads(pickle.dumps(load))()  # a process may load it


def only(instances):
    """(name, load) of the only instance."""
    ((name, load),) = instances.items()
    return name, load


# ---------------------------------------------------------------------------------------------------- PartNet


def test_partnet_alone_has_labels_and_a_plain_colour(tmp_path, class_list):
    write_annotation(tmp_path / "data" / "173", "abc")
    class_names, instances = collection.list_partnet(tmp_path / "data", class_list)
    name, load = only(instances)
    loaded = run(load)
    assert class_names == ["background", "chair_back", "chair_seat"]
    assert name == "abc" and loaded.faults == ()
    assert [(loaded.labels == i).sum() for i in (1, 2)] == [12, 12]
    assert len(np.unique(loaded.colours)) == 1


def test_colours_of_shapenet_land_on_the_right_side(tmp_path, class_list):
    write_annotation(tmp_path / "data" / "173", "abc")
    write_twin(tmp_path / "shapenet" / "03001627" / "abc")
    _, load = only(collection.list_partnet(tmp_path / "data", class_list, tmp_path / "shapenet", resolution=128)[1])
    loaded = run(load)
    assert loaded.faults == ()
    points = triangle_mesh.sample_surface(loaded, 5000, np.random.default_rng(0))
    x, y, z = points.points.T
    behind = (points.labels == 1) & (z < -0.4999)
    clear = ~behind & (np.abs(x - 0.1) > 0.02) & (z > -0.48)  # away from borders between colours
    assert behind.sum() > 200 and np.allclose(points.colours[behind & (np.abs(x) < 0.37) & (y > 0.02)], [0, 0, 1])
    assert np.allclose(points.colours[clear & (x < 0.1)], [1, 0, 0])
    assert np.allclose(points.colours[clear & (x > 0.1)], [0, 1, 0])
    assert (y[points.labels == 1] >= 0).all() and (y[points.labels == 2] <= 0).all()


@pytest.mark.parametrize("place", ["03001627/abc", "abc"])
def test_shapenet_models_are_found_with_and_without_synsets(tmp_path, class_list, place):
    folder = write_annotation(tmp_path / "173", "abc")
    twin = write_twin(tmp_path / "shapenet" / place)
    (tmp_path / "shapenet" / "taxonomy.json").write_text("[]")
    _, load = only(collection.list_partnet(folder, class_list, tmp_path / "shapenet", resolution=16)[1])  # one annotation
    assert len(np.unique(run(load).colours, axis=0)) == 3
    (twin / "models" / "model_normalized.obj").rename(twin / "model.obj")
    (twin / "models" / "model_normalized.mtl").rename(twin / "model_normalized.mtl")
    (twin / "model_normalized.mtl").write_text("newmtl blue\nnewmtl halves\nmap_Kd images/texture0.png\n")
    _, load = only(collection.list_partnet(folder, class_list, tmp_path / "shapenet", resolution=16)[1])
    assert run(load).faults == ()


def test_instances_have_the_shapenet_id_where_it_is_unique(tmp_path, class_list):
    for name, model_id in {"1": "abc", "2": "abc", "3": "def", "4": None, "5": "4", "6": "6"}.items():
        write_annotation(tmp_path / "data" / name, model_id)
    (tmp_path / "data" / "notes").mkdir()
    names = list(collection.list_partnet(tmp_path / "data", class_list)[1])
    assert names == ["1", "2", "def", "4", "5", "6"]


@pytest.mark.slow
def test_what_shapenet_lacks_or_has_otherwise_is_reported(tmp_path, class_list):
    folder = write_annotation(tmp_path / "data" / "173", "abc")
    (tmp_path / "shapenet").mkdir()
    _, load = only(collection.list_partnet(tmp_path / "data", class_list, tmp_path / "shapenet")[1])
    with pytest.raises(util.InputError, match=r"173: found neither .*shapenet/abc/models"):
        run(load)
    twin = write_twin(tmp_path / "shapenet" / "abc")
    (twin / "images" / "texture0.png").unlink()
    _, load = only(collection.list_partnet(tmp_path / "data", class_list, tmp_path / "shapenet", resolution=16)[1])
    assert "texture0.png not found" in run(load).faults[0]
    angles = np.linspace(0, 2 * np.pi, 60)
    ring = "".join(f"v {np.cos(a)} 0 {np.sin(a)}\nv {np.cos(a)} 0.1 {np.sin(a)}\n" for a in angles)
    (twin / "models" / "model_normalized.obj").write_text(
        ring + "".join(f"f {i} {i + 1} {i + 3} {i + 2}\n" for i in range(1, 118, 2))
    )
    with pytest.raises(util.InputError, match=r"173: does not fit .*model_normalized\.obj: .* 0\.\d+ diagonals"):
        run(load)
    assert only(collection.list_partnet(folder, class_list)[1])[0] == "abc"


def test_a_coloured_surface_that_is_all_holes_is_reported(tmp_path, class_list, monkeypatch):
    monkeypatch.setattr(colour_transfer, "NUM_COLOURS", 100)
    write_annotation(tmp_path / "data" / "173", "abc")
    twin = write_twin(tmp_path / "shapenet" / "abc")
    iio.imwrite(twin / "images" / "texture0.png", np.zeros((1, 1, 4), np.uint8))
    obj = twin / "models" / "model_normalized.obj"
    obj.write_text("".join(line for line in obj.read_text().splitlines(True) if line[0] != "f" or "/" in line))
    _, load = only(collection.list_partnet(tmp_path / "data", class_list, tmp_path / "shapenet")[1])
    with pytest.raises(util.InputError, match=r"model_normalized\.obj: its textures are fully transparent"):
        run(load)


def test_a_folder_without_partnet_is_reported(tmp_path, class_list):
    (tmp_path / "data" / "173").mkdir(parents=True)
    with pytest.raises(util.InputError, match=r"data: no PartNet model found"):
        collection.list_partnet(tmp_path / "data", class_list)
    with pytest.raises(util.InputError, match=r"none: cannot be read as a folder .*No such file.*; give a folder of meshes"):
        collection.list_partnet(tmp_path / "none", class_list)
    with pytest.raises(util.InputError, match=r"none\.txt: cannot be read as a class list"):
        collection.list_partnet(tmp_path / "data", tmp_path / "none.txt")
    write_annotation(tmp_path / "data" / "174")
    with pytest.raises(util.InputError, match=r"none: cannot be read as a folder .*No such file.*; give a folder of meshes"):
        collection.list_partnet(tmp_path / "data", class_list, tmp_path / "none")


# ------------------------------------------------------------------------------------------- any other meshes


def chair_obj():
    return "o Back rest\n" + box_obj(*BOXES["chair_back"]) + "o SEAT\n" + box_obj(*BOXES["chair_seat"], first=9)


def test_files_and_folders_are_instances(tmp_path, part_map):
    folder = tmp_path / "data"
    (folder / "chair 2").mkdir(parents=True)
    (folder / "textures").mkdir()
    (folder / "chair_01.OBJ").write_text(chair_obj())
    (folder / ".hidden.obj").write_text("")
    (folder / "readme.txt").write_text("")
    for i, (stem, box) in enumerate({"back": BOXES["chair_back"], "Seat": BOXES["chair_seat"]}.items()):
        (folder / "chair 2" / f"{stem}.obj").write_text(box_obj(*box))
    instances = collection.list_files(folder, part_map)
    assert list(instances) == ["chair 2", "chair_01"]
    for load in instances.values():
        mesh = run(load)
        assert [(mesh.labels == i).sum() for i in (0, 1, 2)] == [0, 12, 12]
        assert (mesh.corners[mesh.labels == 2][..., 1] <= 0).all()
    assert [(run(load).labels == 1).all() for load in collection.list_files(folder).values()] == [True, True]


def test_unknown_parts_name_the_file_and_the_map(tmp_path, part_map):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.obj").write_text(chair_obj().replace("SEAT", "Cube"))
    with pytest.raises(util.InputError, match=r"a\.obj: unknown part names, by object: Cube; .*map\.yml"):
        run(collection.list_files(tmp_path / "data", part_map)["a"])


@pytest.mark.parametrize("place", ["abc", "03001627/abc", ""])
def test_shapenet_folders_without_labels_are_recognised(tmp_path, place):
    folder = tmp_path / "abc" if not place else tmp_path / "data"
    write_twin(folder / place)
    name, load = only(collection.list_files(folder))
    loaded = run(load)
    assert name == "abc" and loaded.faults == () and len(loaded.textures) == 1
    assert (loaded.labels == 1).all()


def test_textures_outside_the_folder_of_an_instance_are_missing(tmp_path):
    twin = write_twin(tmp_path / "data" / "abc")
    (twin / "images" / "texture0.png").rename(tmp_path / "data" / "texture0.png")
    mtl = twin / "models" / "model_normalized.mtl"
    mtl.write_text(mtl.read_text().replace("../images/", "../../"))
    assert "../../texture0.png not found" in run(collection.list_files(tmp_path / "data")["abc"]).faults[0]


def test_meshes_of_one_name_are_refused(tmp_path):
    folder = tmp_path / "data"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "b.obj").write_text(chair_obj())
    (folder / "a" / "b.ply").write_text("")
    name, load = only(collection.list_files(folder))
    with pytest.raises(util.InputError, match=r"a: found 2 meshes named b"):
        run(load)
    (folder / "a.obj").write_text(chair_obj())
    with pytest.raises(util.InputError, match=r"data: found 2 meshes named a"):
        collection.list_files(folder)


def test_a_folder_without_meshes_is_reported(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(util.InputError, match=r"no meshes found, expected \.obj"):
        collection.list_files(tmp_path)
    with pytest.raises(util.InputError, match=r"none: cannot be read as a folder .*No such file.*; give a folder of meshes"):
        collection.list_files(tmp_path / "none")


def test_a_broken_mesh_is_reported_when_its_turn_comes(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0\nf 1 1 1\n")
    (tmp_path / "b.obj").write_text(chair_obj())
    instances = collection.list_files(tmp_path)
    with pytest.raises(util.InputError, match=r"a\.obj: no triangle has an area"):
        run(instances["a"])
    assert len(run(instances["b"]).triangles) == 24
