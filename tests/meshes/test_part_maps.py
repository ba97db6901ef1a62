"""datasets/meshes/part_maps.py: which class a part name gets."""

import numpy as np
import pytest

import util
from datasets.meshes import named_mesh, part_maps

MAP = """
classes: {1: back, 2: seat, 4: base}
parts:
  "leg [*]": back
  "LEG*": base
  Seat cushion: seat
  3: back
"""


def named(**names):
    """A NamedMesh of as many triangles as each kind of name has entries."""
    count = len(next(iter(names.values())))
    names = {kind: np.unique(names.get(kind, [""] * count), return_inverse=True) for kind in named_mesh.NAME_KINDS}
    names = {kind: named_mesh.Names(*found) for kind, found in names.items()}
    return named_mesh.build(np.zeros((3, 3)), np.zeros((count, 3), int), np.zeros((count, 3)), names)


@pytest.fixture
def load(tmp_path):
    def call(text):
        (tmp_path / "map.yml").write_text(text)
        return part_maps.load(tmp_path / "map.yml")

    return call


def test_the_first_rule_that_matches_wins_in_any_case(load):
    part_map = load(MAP)
    assert part_map.class_names == ["background", "back", "seat", "class 3", "base"]
    asked = {"leg [*]": 1, "Leg_01": 4, "seat CUSHION": 2, "3": 1, "33": part_maps.UNKNOWN, "": part_maps.UNKNOWN}
    assert {name: part_map.match(name)[1] for name in asked} == asked


def test_classes_may_be_a_list(load):
    assert load("classes: [back, seat]\nparts: {a: seat}").class_names == ["background", "back", "seat"]


def test_the_first_kind_of_name_that_is_mapped_throughout_is_taken(load):
    part_map = load(MAP)
    mesh = named(object=["Cube.1", "leg"], group=["leg 1", "seat cushion"], material=["leg", "leg"])
    assert part_maps.labels(part_map, mesh, "a.obj").tolist() == [4, 2]
    assert part_maps.labels(load(MAP + "by: material"), mesh, "a.obj").tolist() == [4, 4]
    assert part_maps.labels(part_map, mesh, "a.obj").dtype == np.uint8


def test_a_rule_for_everything_else_does_not_hide_better_names(load):
    part_map = load(MAP + '  "*": seat')
    assert part_maps.labels(part_map, named(object=["x", "x"], material=["leg", "oak"]), "a.obj").tolist() == [4, 2]
    assert part_maps.labels(part_map, named(object=["x", "y"]), "a.obj").tolist() == [2, 2]
    assert part_maps.labels(load(MAP + '  "*": seat\nby: object'), named(object=["x"], material=["leg"]), "a").tolist() == [2]


def test_unknown_names_are_listed_up_to_five(load):
    names = [f"Cube.{i}" for i in range(7)]
    with pytest.raises(util.InputError, match=r"a\.obj: unknown .*, by object: Cube\.0, .*, Cube\.4 and 2 more; .*map\.yml"):
        part_maps.labels(load(MAP), named(object=["leg", *names]), "a.obj")
    with pytest.raises(util.InputError, match=r"by material: \(none\); "):
        part_maps.labels(load(MAP + "by: material"), named(object=["leg"]), "a.obj")
    with pytest.raises(util.InputError, match=r"by group: arm; "):  # the kind with most names in the map
        part_maps.labels(load(MAP), named(object=["x", "y"], group=["leg", "arm"]), "a.obj")


def test_names_that_no_triangle_has_do_not_count(load):
    mesh = named(object=["leg"])
    mesh.names["object"] = named_mesh.Names(["gone", "leg"], np.array([1]))
    assert part_maps.labels(load(MAP), mesh, "a.obj").tolist() == [4]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "cannot be read as YAML"),
        ("!!python/object/apply:os.getcwd []", "cannot be read as YAML"),
        ("- a", "expected the keys"),
        ("", "expected the keys"),
        ("classes: [a]\nparts: {x: a}\nbye: object", "expected the keys"),
        ("parts: {x: a}", "classes: found .*expected different names"),
        ("classes: [a, a]\nparts: {x: a}", "classes: found .*expected different names"),
        ("classes: {0: a}\nparts: {x: a}", "classes: found .*expected different names"),
        ("classes: {256: a}\nparts: {x: a}", "classes: found .*expected different names"),
        ("classes: {one: a}\nparts: {x: a}", "classes: found .*expected different names"),
        ("classes: {1: [a]}\nparts: {x: a}", "classes: found .*expected different names"),
        ("classes: [a]", "parts: found .*expected lines"),
        ("classes: [a]\nparts: {}", "parts: found .*expected lines"),
        ("classes: [a]\nparts: {x: b}", "x: found 'b', expected one of a"),
        ("classes: [a]\nparts: {x: [a]}", r"x: found \['a'\], expected one of a"),
        ("classes: {0: background, 1: a}\nparts: {x: background}", "x: found 'background', expected one of a"),
        ("classes: [a]\nparts: {yes: a}", "quotes"),
        ("classes: [a]\nparts: {x: a}\nby: name", "by: found 'name', expected object, group, material"),
    ],
)
def test_broken_maps_are_reported(load, text, reason):
    with pytest.raises(util.InputError, match=rf"map\.yml.*{reason}"):
        load(text)


def test_a_missing_map_is_reported(tmp_path):
    with pytest.raises(util.InputError, match=r"none\.yml: cannot be read"):
        part_maps.load(tmp_path / "none.yml")
