"""datasets/meshes/raycasting.py: surface and colour per pixel, and agreement with geometry.py."""

from dataclasses import replace

import numpy as np
import pytest
import scenes
import torch

import geometry
from datasets.making import solids
from datasets.meshes import raycasting, triangle_mesh

pytest.importorskip("embreex")

SIDE, RADIUS, RED = 96, 0.4, (0.8, 0.3, 0.2)
INTRINSICS = torch.tensor([[100.0, 0, SIDE / 2], [0, 100.0, SIDE / 2], [0, 0, 1]])


def camera(azimuth_deg, elevation_deg, distance=1.3):
    return geometry.look_at(
        geometry.on_sphere(torch.tensor(float(azimuth_deg)), torch.tensor(float(elevation_deg)), distance)
    )


def sphere(label=1, colour=RED, centre=(0, 0, 0)):
    polar = np.linspace(1e-3, np.pi - 1e-3, 160)
    rings = [
        np.insert(solids.outline(RADIUS * np.sin(a), RADIUS * np.sin(a), 320), 2, -RADIUS * np.cos(a), axis=1) for a in polar
    ]
    return solids.loft(np.array(rings) + centre, label, colour)


def wall(y=0.0, label=1, colour=RED, half=0.5, **texture):
    """A square at depth y that faces -y; corners run from the bottom left counterclockwise, as seen from there."""
    vertices = np.array([[-half, y, -half], [half, y, -half], [half, y, half], [-half, y, half]])
    triangles = np.array([[0, 1, 2], [0, 2, 3]])
    return triangle_mesh.Mesh(vertices, triangles, np.full(2, label, np.uint8), np.tile(colour, (2, 1)), **texture)


def textured_wall(texture, repeats=1.0, **wall_options):
    corner_uv = repeats * np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]], dtype=float)
    return wall(texture_ids=np.zeros(2, int), corner_uv=corner_uv, textures=[texture], **wall_options)


def view(mesh, cam2world=None, intrinsics=INTRINSICS, height=SIDE, width=SIDE):
    cam2world = camera(0, 0) if cam2world is None else cam2world
    return raycasting.render(raycasting.Scene(mesh), cam2world, intrinsics, height, width)[:2]


def test_sphere_is_seen_exactly_by_the_rays_that_meet_it():
    cam2world = camera(20, 30)
    _, seg_labels = view(sphere(centre=(0.1, 0.05, -0.02)), cam2world)
    directions, _ = geometry.rays(geometry.pixel_grid(SIDE, SIDE, 0.5), cam2world, INTRINSICS)
    to_centre = torch.tensor([0.1, 0.05, -0.02]) - geometry.camera_centre(cam2world)
    along = (directions * to_centre).sum(-1)
    distance = (to_centre.square().sum() - along.square()).sqrt()
    clear = (distance - RADIUS).abs() > 1e-3  # not grazing the faceted silhouette
    assert clear.float().mean() > 0.98
    assert torch.equal(torch.from_numpy(seg_labels).flatten()[clear] == 1, (distance < RADIUS)[clear])


def test_silhouette_lies_around_the_projection_of_the_sphere():
    cam2world = camera(-50, 40)
    alpha = view(sphere(), cam2world)[0][..., 3].astype(float) / 255
    columns, rows = geometry.pixel_grid(SIDE, SIDE, 0.5).reshape(SIDE, SIDE, 2).numpy().transpose(2, 0, 1)
    centroid = [(alpha * columns).sum() / alpha.sum(), (alpha * rows).sum() / alpha.sum()]
    assert np.allclose(centroid, SIDE / 2, atol=0.02)  # a wrong half-pixel rule is off by 0.5
    radius_in_pixels = 100 * RADIUS / np.sqrt(1.3**2 - RADIUS**2)
    assert alpha.sum() == pytest.approx(np.pi * radius_in_pixels**2, rel=0.005)


def test_sphere_points_project_onto_the_same_pixels_of_every_view():
    first, second = camera(20, 10), camera(55, 40)
    uv = geometry.pixel_grid(SIDE, SIDE, 0.5)
    scene = raycasting.Scene(sphere())
    seen = torch.from_numpy(raycasting.render(scene, first, INTRINSICS, SIDE, SIDE)[1]).flatten() == 1

    directions, depth_per_length = geometry.rays(uv, first, INTRINSICS)
    origin = geometry.camera_centre(first)
    along = -(directions * origin).sum(-1, keepdim=True)
    length = along - (along.square() - origin.square().sum() + RADIUS**2).clamp(min=0).sqrt()  # analytic surface
    points = scenes.camera_to_world(geometry.lift(uv, length * depth_per_length, INTRINSICS), first)
    _, _, cast = scene.cast(origin.expand_as(directions).numpy(), directions.numpy(), 0.01)
    inner = seen & (length[:, 0] < along[:, 0] - 0.05)
    assert np.abs(cast[inner] - length[inner, 0].numpy()).max() < 2e-3
    assert torch.allclose(points[inner].norm(dim=-1), torch.tensor(RADIUS), atol=1e-4)

    back = geometry.project(geometry.world_to_camera(points, first), INTRINSICS)
    assert torch.allclose(back, uv, atol=1e-2)
    elsewhere = geometry.project(geometry.world_to_camera(points, second), INTRINSICS)
    faces_second = ((geometry.camera_centre(second) - points) * points).sum(-1) > 0.1  # a pixel within the rim
    rgba, seg_labels, _, _ = raycasting.render(scene, second, INTRINSICS, SIDE, SIDE)
    pixels = elsewhere[inner & faces_second].floor().long()
    assert len(pixels) > 1000
    assert (seg_labels[pixels[:, 1], pixels[:, 0]] == 1).all()
    assert (rgba[pixels[:, 1], pixels[:, 0], 3] == 255).all()


def test_colour_belongs_to_the_surface_point_and_not_to_the_view():
    mesh = solids.box((-0.3, -0.2, -0.3), (0.3, 0.2, 0.3), 1, RED)
    tops = [view(mesh, camera(azimuth, 60))[0][SIDE // 2, SIDE // 2] for azimuth in (0, 100, 200)]
    assert np.array_equal(tops[0], tops[1]) and np.array_equal(tops[0], tops[2])
    directions = ((0, 0), (90, 0), (0, 89))
    front, side, top = (view(mesh, camera(*d))[0][SIDE // 2, SIDE // 2, 0] for d in directions)
    assert len({front, side, top}) == 3


def test_depth_and_normals_are_those_of_the_surface():
    cam2world = camera(35, 20)
    scene = raycasting.Scene(sphere())
    _, seg_labels, depth, normals = raycasting.render(scene, cam2world, INTRINSICS, SIDE, SIDE)
    seen = seg_labels == 1
    assert depth.dtype == normals.dtype == np.float32
    assert not depth[~seen].any() and not normals[~seen].any()
    uv = geometry.pixel_grid(SIDE, SIDE, 0.5)
    in_camera = geometry.lift(uv, torch.from_numpy(depth).reshape(-1, 1), INTRINSICS)[seen.flatten()]
    points = scenes.camera_to_world(in_camera, cam2world)
    assert torch.allclose(points.norm(dim=-1), torch.tensor(RADIUS), atol=1e-3)
    in_world = torch.from_numpy(normals[seen]) @ cam2world[:3, :3].T
    outwards = points / points.norm(dim=-1, keepdim=True)
    assert ((in_world * outwards).sum(-1) > 0.999).float().mean() > 0.99  # the faceted sphere's


def test_normals_face_the_camera_whichever_side_is_seen():
    for azimuth in (0, 180):
        *_, normals = raycasting.render(raycasting.Scene(wall()), camera(azimuth, 0), INTRINSICS, SIDE, SIDE)
        assert np.allclose(normals[SIDE // 2, SIDE // 2], (0, 0, -1), atol=1e-6)


def test_without_light_colours_are_the_materials_own():
    rgba, *_ = raycasting.render(raycasting.Scene(wall(), light=None), camera(0, 0), INTRINSICS, SIDE, SIDE)
    assert np.allclose(rgba[SIDE // 2, SIDE // 2, :3], 255 * np.array(RED), atol=0.51)
    lit = raycasting.Scene(wall(), light=np.array([0.0, -1.0, 0.0]))
    assert np.allclose(raycasting.render(lit, camera(0, 0), INTRINSICS, SIDE, SIDE)[0], rgba, atol=1)  # head-on


def test_both_sides_of_a_surface_look_the_same():
    front, back = view(wall(), camera(0, 0))[0], view(wall(), camera(180, 0))[0]
    assert np.array_equal(back[SIDE // 2, SIDE // 2], front[SIDE // 2, SIDE // 2])
    turned = replace(wall(), triangles=wall().triangles[:, ::-1])
    assert np.array_equal(view(turned)[0], front)


def test_alpha_is_the_covered_share_of_a_pixel():
    # At distance 1.3 and focal length 130 a wall of half width 0.205 ends at 20.5 pixels from the image's centre.
    intrinsics = torch.tensor([[130.0, 0, 32], [0, 130.0, 32], [0, 0, 1]])
    rgba, seg_labels = view(wall(half=0.2051), intrinsics=intrinsics, height=64, width=64)
    shade = raycasting.AMBIENT + raycasting.DIFFUSE * abs(raycasting.LIGHT[1])
    assert np.allclose(rgba[32, 20, :3], 255 * shade * np.array(RED), atol=0.51)
    assert rgba[32, 10:14, 3].tolist() == [0, 153, 255, 255]  # three of five samples
    assert seg_labels[32, 10:14].tolist() == [0, 1, 1, 1]
    assert np.abs(rgba[32, 11, :3].astype(int) - rgba[32, 20, :3]).max() == 0  # straight, not premultiplied
    assert not rgba[rgba[..., 3] == 0].any()


def test_images_need_not_be_square_and_objects_may_leave_them():
    intrinsics = torch.tensor([[100.0, 0, 5.0], [0, 100.0, 40.0], [0, 0, 1]])
    rgba, seg_labels = view(wall(half=0.3), intrinsics=intrinsics, height=80, width=50)
    assert rgba.shape == (80, 50, 4) and seg_labels.shape == (80, 50)
    assert seg_labels[40, 0] == 1 and seg_labels[40, 49] == 0
    away = view(wall(), camera(0, 0) @ torch.diag(torch.tensor([-1.0, 1, -1, 1])))  # turned about
    assert not away[0].any() and not away[1].any()


def test_texture_origin_is_at_the_bottom_left_and_coordinates_repeat():
    red, green, blue, grey = ([200, 0, 0, 255], [0, 200, 0, 255], [0, 0, 200, 255], [90, 90, 90, 255])
    texture = np.array([[red, green], [blue, grey]], dtype=np.uint8)  # top row first
    rgba, _ = view(textured_wall(texture))
    assert [rgba[row, column, :3].argmax() for row, column in ((20, 20), (20, 76), (76, 20))] == [0, 1, 2]
    twice, _ = view(textured_wall(texture, repeats=2.0))
    corners = [twice[row, column, :3].argmax() for row, column in ((14, 14), (14, 52), (52, 14), (52, 52))]
    assert corners == [0, 0, 0, 0]


def test_fine_textures_show_their_mean():
    checker = (np.indices((512, 512)).sum(axis=0) % 2 * 200)[..., None].repeat(4, axis=-1).astype(np.uint8)
    checker[..., 3] = 255
    inside = view(textured_wall(checker, repeats=8.0))[0][20:76, 20:76, 0]
    assert np.ptp(inside) <= 1


def test_rays_go_on_where_a_texture_is_cut_away():
    texture = np.full((2, 2, 4), 255, dtype=np.uint8)
    texture[:, 0, 3] = 0  # the left half
    front = textured_wall(texture, half=0.4, label=1)
    scene_mesh = triangle_mesh.Mesh(
        vertices=np.concatenate([front.vertices, wall(0.3).vertices]),
        triangles=np.concatenate([front.triangles, wall().triangles + 4]),
        labels=np.array([1, 1, 2, 2], np.uint8),
        colours=np.tile(RED, (4, 1)),
        texture_ids=np.array([0, 0, triangle_mesh.UNTEXTURED, triangle_mesh.UNTEXTURED]),
        corner_uv=np.concatenate([front.corner_uv, np.zeros((2, 3, 2))]),
        textures=front.textures,
    )
    _, seg_labels = view(scene_mesh)
    assert seg_labels[48, 30] == 2 and seg_labels[48, 66] == 1
    rgba, seg_labels = view(front)
    assert rgba[48, 30, 3] == 0 and seg_labels[48, 30] == 0
