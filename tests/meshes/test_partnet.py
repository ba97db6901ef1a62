"""datasets/meshes/partnet.py: class lists and hierarchies."""

import json

import numpy as np
import pytest

import util
from datasets.meshes import partnet

LEVEL_1 = "1 chair/chair_back subcomponents\n2 chair/chair_seat leaf\n3 chair/chair_base subcomponents\n"
QUAD = "v 0 0 {z}\nv 1 0 {z}\nv 1 1 {z}\nv 0 1 {z}\nf 1 2 3 4\n"


def node(name, *children, objs=None):
    made = {"id": 1, "name": name, "text": name.title(), "children": list(children)}
    return made if objs is None else {**made, "objs": list(objs)}


TREE = [
    node(
        "chair",
        node("chair_back", node("back_surface", node("board", objs=["new-0"]), objs=["new-0"]), objs=["new-0", "original-1"]),
        node("chair_seat", objs=["original-2"]),
        node("chair_base", node("leg", objs=["original-3"])),
    )
]
CLASSES = {"new-0": 1, "original-1": 1, "original-2": 2, "original-3": 3}


def write(folder, tree=TREE, stems=CLASSES, name="result_after_merging.json", meta=None):
    """An annotation whose parts are squares, one above the other."""
    (folder / "objs").mkdir(parents=True, exist_ok=True)
    for z, stem in enumerate(stems):
        (folder / "objs" / f"{stem}.obj").write_text(QUAD.format(z=z))
    (folder / name).write_text(tree if isinstance(tree, str) else json.dumps(tree))
    if meta is not None:
        (folder / "meta.json").write_text(meta if isinstance(meta, str) else json.dumps(meta))
    return folder


@pytest.fixture
def class_list(tmp_path):
    def call(text=LEVEL_1):
        (tmp_path / "Chair-level-1.txt").write_text(text)
        return partnet.load_class_list(tmp_path / "Chair-level-1.txt")

    return call


@pytest.mark.parametrize(
    "text",
    [
        LEVEL_1,
        "0 background\n1 chair_back\n2 chair_seat\n3 chair_base\n",
        "0 background\n1 back\n2 seat\n3 Base\n",
        "2 chair/chair_seat\n1 back_surface\n3 leg\n4 chair_back\n",  # the deepest listed one counts
    ],
)
def test_lists_of_every_form_name_the_parts(class_list, text):
    found, faults = partnet.part_classes(TREE, class_list(text), "a.json")
    assert found == {**CLASSES, "original-1": 4 if "4" in text else 1} and not faults


def test_a_path_is_a_path_from_the_root(class_list):
    assert class_list("1 chair/chair_back\n").class_id(("chair", "x", "chair_back")) == partnet.NO_CLASS
    assert class_list("1 chair_back\n").class_id(("chair", "x", "chair_back")) == 1


def test_the_deeper_node_has_the_part(class_list):
    tree = [node("chair", node("chair_back", node("leg", objs=["a"])), node("chair_seat", objs=["a"]), objs=["a"])]
    assert partnet.part_classes(tree, class_list(), "a.json") == ({"a": 1}, [])
    tree = [node("chair", node("chair_seat", objs=["a"]), node("chair_back", objs=["a", "b"]))]
    found, faults = partnet.part_classes(tree, class_list(), "a.json")
    assert found == {"a": 2, "b": 1} and faults == ["a.json: part a has two classes, first one used"]


def test_unknown_part_names_are_listed(class_list):
    tree = [node("chair", node("chair_seat", objs=["a"]), node("lamp", node("bulb", objs=["b"])), node("mat", objs=["c"]))]
    with pytest.raises(util.InputError, match=r"a\.json: unknown part names: bulb, mat; .*Chair-level-1\.txt"):
        partnet.part_classes(tree, class_list(), "a.json")


@pytest.mark.parametrize(
    "tree",
    [
        [],
        {},
        [3],
        [{"name": 3}],
        [{"name": "chair", "children": 5}],
        [{"name": "chair", "objs": "a"}],
        [node("chair", objs=[])],
        [node("seat", objs=["../secret"])],
        [node("seat", objs=["/etc/passwd"])],
        [node("seat", objs=[3])],
    ],
)
def test_broken_hierarchies_are_reported(class_list, tree):
    with pytest.raises(util.InputError, match=r"a\.json: "):
        partnet.part_classes(tree, class_list(), "a.json")


def test_an_annotation_is_read_with_its_labels(tmp_path, class_list):
    folder = write(tmp_path / "173", stems=[*CLASSES, "unused"])
    loaded = partnet.load(folder, class_list())
    assert not loaded.faults and len(loaded.triangles) == 8
    heights = loaded.corners[:, 0, 2]
    assert {int(z): set(loaded.labels[heights == z].tolist()) for z in heights} == {0: {1}, 1: {1}, 2: {2}, 3: {3}}
    assert loaded.labels.dtype == np.uint8


def test_without_a_merged_hierarchy_the_other_is_read(tmp_path, class_list):
    folder = write(tmp_path / "173", name="result.json")
    assert len(partnet.load(folder, class_list()).triangles) == 8
    write(folder, tree=[node("chair", node("chair_seat", objs=["new-0"]))])
    assert len(partnet.load(folder, class_list()).triangles) == 2


def test_faults_of_parts_are_handed_on(tmp_path, class_list):
    folder = write(tmp_path / "173")
    (folder / "objs" / "new-0.obj").write_text(QUAD.format(z=0) + "f 1 1 2\nf 1 2 3 4\n")
    (folder / "objs" / "original-2.obj").write_text("v 0 0 0\nf 1 1 1\n")  # no triangle remains
    loaded = partnet.load(folder, class_list())
    assert [fault.split("objs/")[1] for fault in loaded.faults] == [
        "new-0.obj: 1 degenerate triangles left out, 2 kept",
        "original-2.obj: 1 degenerate triangles left out, 0 kept",
    ]
    assert len(loaded.triangles) == 6 and 2 not in loaded.labels


def test_a_part_without_faces_is_left_out_and_reported(tmp_path, class_list):
    folder = write(tmp_path / "173")
    (folder / "objs" / "original-3.obj").write_text("v 0 0 0\n")
    loaded = partnet.load(folder, class_list())
    assert len(loaded.faults) == 1 and "original-3.obj: no faces found" in loaded.faults[0]
    assert len(loaded.triangles) == 6 and 3 not in loaded.labels
    for stem in CLASSES:
        (folder / "objs" / f"{stem}.obj").write_text("v 0 0 0\n")
    with pytest.raises(util.InputError, match=r"173: no triangle has an area .*new-0\.obj: no faces"):
        partnet.load(folder, class_list())


def test_broken_annotations_are_reported(tmp_path, class_list):
    folder = write(tmp_path / "173")
    (folder / "objs" / "original-3.obj").unlink()
    with pytest.raises(util.InputError, match=r"after_merging\.json: names part original-3, expected the file .*objs"):
        partnet.load(folder, class_list())
    for text in ("{", "[" * 100_000, "\xff"):
        (folder / "result_after_merging.json").write_text(text, encoding="latin-1")
        with pytest.raises(util.InputError, match=r"result_after_merging\.json: cannot be read as JSON"):
            partnet.load(folder, class_list())
    (folder / "result_after_merging.json").unlink()
    with pytest.raises(util.InputError, match=r"173: expected result_after_merging\.json or result\.json, found neither"):
        partnet.load(folder, class_list())
    write(folder, meta="{")
    with pytest.raises(util.InputError, match=r"meta\.json: cannot be read as JSON"):
        partnet.load(folder, class_list())


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"model_id": "1bcd9c3fe6c9"}, "1bcd9c3fe6c9"),
        ({"model_id": "../up"}, None),
        ({"model_id": 3}, None),
        ({}, None),
        ("{", None),
        ("[]", None),
        ({"model_id": ".hidden"}, None),
        (None, None),
    ],
)
def test_the_shapenet_id_is_taken_where_it_is_fit_for_a_folder(tmp_path, meta, expected):
    assert partnet.model_id(write(tmp_path / "173", meta=meta)) == expected


def test_too_many_classes_are_reported(class_list):
    with pytest.raises(util.InputError, match=r"Chair-level-1\.txt: found class id 256"):
        class_list("256 chair/chair_back\n")
