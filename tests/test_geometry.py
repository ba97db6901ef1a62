import numpy as np
import pytest
import scenes
import torch

import geometry

INTRINSICS = torch.tensor([[100.0, 0, 30], [0, 80.0, 36], [0, 0, 1]], dtype=torch.float64)


def tensors(arrays):
    return {name: torch.from_numpy(array).double() for name, array in arrays.items()}


def some_pose():
    """A camera that is off every axis."""
    return geometry.look_at(torch.tensor([1.5, -0.7, 2.2]), (0.1, 0.2, -0.3)).double()


def test_pixels_follow_each_other_along_the_row():
    assert geometry.pixel_grid(2, 3).tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]


def test_pixel_center_moves_every_ray_through_the_middle_of_its_pixel():
    grid = geometry.pixel_grid(2, 2, pixel_center=0.5)
    assert grid.tolist() == [[0.5, 0.5], [1.5, 0.5], [0.5, 1.5], [1.5, 1.5]]
    assert grid.mean(dim=0).tolist() == [1, 1]  # the middle of the image, where cx and cy are


def test_lift_puts_a_pixel_where_the_pinhole_camera_saw_it():
    point = geometry.lift(torch.tensor([[130.0, 20.0]]).double(), torch.tensor([[2.0]]).double(), INTRINSICS)
    assert point.tolist() == [pytest.approx([2.0, -0.4, 2.0])]  # (130 - 30) / 100 * 2, (20 - 36) / 80 * 2


def test_project_undoes_lift_also_behind_the_camera():
    uv = geometry.pixel_grid(5, 9).double()
    depth = torch.linspace(-2, 3, len(uv), dtype=torch.float64)[:, None]
    assert torch.allclose(geometry.project(geometry.lift(uv, depth, INTRINSICS), INTRINSICS), uv, atol=1e-10)


def test_world_to_camera_undoes_camera_to_world_in_a_batch():
    poses = torch.stack([some_pose(), geometry.look_at(torch.tensor([0.0, 0, 2])).double()])
    points = torch.randn(2, 7, 3, dtype=torch.float64)
    world = scenes.camera_to_world(points, poses)
    assert torch.allclose(geometry.world_to_camera(world, poses), points, atol=1e-12)
    assert not torch.allclose(world, points)


def test_the_camera_centre_is_the_origin_of_the_camera():
    pose = some_pose()
    assert geometry.camera_centre(pose).tolist() == [pytest.approx([1.5, -0.7, 2.2])]
    origin = torch.zeros(1, 3, dtype=torch.float64)
    assert torch.allclose(scenes.camera_to_world(origin, pose), geometry.camera_centre(pose))


def test_a_ray_has_unit_length_and_meets_its_pixel_again():
    uv, pose = geometry.pixel_grid(6, 4, pixel_center=0.5).double(), some_pose()
    directions, _ = geometry.rays(uv, pose, INTRINSICS)
    assert torch.allclose(directions.norm(dim=-1), torch.ones(24, dtype=torch.float64))
    seen = geometry.world_to_camera(geometry.camera_centre(pose) + 1.7 * directions, pose)
    assert torch.allclose(geometry.project(seen, INTRINSICS), uv, atol=1e-10)


def test_depth_grows_along_a_ray_by_the_factor_that_rays_returns():
    uv, pose = geometry.pixel_grid(6, 4).double(), some_pose()
    directions, depth_per_length = geometry.rays(uv, pose, INTRINSICS)
    points = geometry.camera_centre(pose) + 1.7 * directions
    assert torch.allclose(geometry.world_to_camera(points, pose)[..., 2:], 1.7 * depth_per_length)
    assert (depth_per_length < 1).all()  # depth is less than the distance, since no pixel is the principal point


def test_depth_is_measured_along_the_viewing_direction():
    pose = geometry.look_at(torch.tensor([0.0, -2.0, 0.0]))  # looks along +y
    points = torch.tensor([[0.0, 0.0, 0.0], [5.0, 1.0, -3.0], [0.0, -3.0, 0.0]])
    assert geometry.world_to_camera(points, pose)[..., 2:].flatten().tolist() == pytest.approx([2, 3, -1])


def test_a_camera_in_front_has_the_axes_worked_out_by_hand():
    pose = geometry.look_at(torch.tensor([0.0, -3.0, 0.0]))
    right, down, forward, eye = pose[:3].T.tolist()
    assert (right, down, forward, eye) == ([1, 0, 0], [0, 0, -1], [0, 1, 0], [0, -3, 0])
    assert pose[3].tolist() == [0, 0, 0, 1]


def test_look_at_is_a_right_handed_rotation_that_sees_the_target_in_the_centre():
    eyes, target = torch.randn(20, 3), (0.1, 0.2, -0.3)
    poses = geometry.look_at(eyes, target)
    rotation = poses[:, :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-6)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(20))
    in_camera = geometry.world_to_camera(torch.tensor([[target]] * 20), poses)[:, 0]
    assert torch.allclose(in_camera[:, :2], torch.zeros(20, 2), atol=1e-5)
    assert (in_camera[:, 2] > 0).all()
    assert (rotation[:, 2, 1] < 0).all()  # down in the image is down in the world


@pytest.mark.parametrize("height", [2.0, -2.0])
def test_straight_down_and_straight_up_the_top_of_the_image_points_to_y(height):
    pose = geometry.look_at(torch.tensor([0.0, 0.0, height]))
    assert pose[:3, 1].tolist() == pytest.approx([0, -1, 0])
    assert pose[:3, 2].tolist() == pytest.approx([0, 0, -np.sign(height)])
    assert torch.linalg.det(pose[:3, :3]).item() == pytest.approx(1)


@pytest.mark.parametrize(
    "azimuth_deg, elevation_deg, expected",
    [(0, 0, (0, -2, 0)), (90, 0, (2, 0, 0)), (180, 0, (0, 2, 0)), (0, 90, (0, 0, 2)), (90, 30, (3**0.5, 0, 1))],
)
def test_azimuth_turns_from_the_front_to_the_right_and_elevation_rises(azimuth_deg, elevation_deg, expected):
    point = geometry.on_sphere(torch.tensor(float(azimuth_deg)), torch.tensor(float(elevation_deg)), 2.0)
    assert point.tolist() == pytest.approx(expected, abs=1e-6)


def lifted(depth):
    """A (H, W) depth map seen by a pinhole camera, as a map of points (1, 3, H, W)."""
    height, width = depth.shape
    points = geometry.lift(geometry.pixel_grid(height, width).double(), depth.reshape(-1, 1), INTRINSICS)
    return points.T.reshape(1, 3, height, width)


def test_a_wall_in_front_of_the_camera_faces_it():
    normals = geometry.normal_map(lifted(torch.full((5, 6), 3.0, dtype=torch.float64)))
    assert normals.shape == (1, 3, 3, 4)
    assert torch.allclose(normals, torch.tensor([0.0, 0, -1]).double().view(1, 3, 1, 1).expand_as(normals))


def test_a_tilted_plane_has_its_own_unit_normal_everywhere():
    normal, distance = torch.tensor([0.48, -0.6, -0.64], dtype=torch.float64), -2.0
    rays = lifted(torch.ones(6, 7, dtype=torch.float64))
    depth = distance / torch.einsum("c,bchw->bhw", normal, rays)[0]  # the points of normal . x == distance
    normals = geometry.normal_map(lifted(depth))
    assert torch.allclose(normals, normal.view(1, 3, 1, 1).expand_as(normals), atol=1e-9)


def test_points_that_coincide_have_no_normal_and_a_finite_gradient():
    points = torch.zeros(1, 3, 4, 4, requires_grad=True)
    normals = geometry.normal_map(points)
    normals.sum().backward()
    assert not normals.any() and points.grad.isfinite().all()


def test_viewing_distance_is_that_to_the_point_all_cameras_look_at():
    target = torch.tensor([3.0, -1.0, 2.0])
    eyes = target + torch.tensor([[2.0, 0, 0], [0, 3.0, 0], [0, 0.6, 0.8]])
    assert geometry.viewing_distance(geometry.look_at(eyes, target)) == pytest.approx((2 + 3 + 1) / 3, abs=1e-4)


def test_viewing_distance_of_a_single_view_is_that_to_the_point_nearest_to_the_origin():
    pose = geometry.look_at(torch.tensor([[0.0, -2.0, 0.5]]), (0.0, 0.0, 0.5))
    assert geometry.viewing_distance(pose) == pytest.approx(2, abs=1e-4)


def test_the_target_is_the_point_all_cameras_look_at():
    target = torch.tensor([3.0, -1.0, 2.0])
    eyes = target + torch.tensor([[2.0, 0, 0], [0, 3.0, 0], [0, 0.6, 0.8]])
    assert torch.allclose(geometry.viewing_target(geometry.look_at(eyes, target)), target, atol=1e-4)


def test_the_target_of_a_single_view_is_the_point_on_its_axis_nearest_to_the_origin():
    pose = geometry.look_at(torch.tensor([[1.0, -2.0, 0.5]]), (1.0, 0.0, 0.5))
    assert geometry.viewing_target(pose).tolist() == pytest.approx([1, 0, 0.5], abs=1e-4)


def test_axes_count_by_their_weights():
    eyes = torch.tensor([[1.0, 0, 0], [0, -1.0, 0], [0, 0, 1.0]])
    poses = geometry.look_at(eyes, torch.tensor([[0.0, 0, 0], [0, 0, 0], [3.0, 0, 0]]))  # the last looks past the others
    point, _ = geometry.nearest_to_axes(poses, torch.tensor([1.0, 1.0, 0.0]))
    assert torch.allclose(point, torch.zeros(3), atol=1e-5)
    assert geometry.nearest_to_axes(poses)[0].norm() > 0.1


@pytest.mark.parametrize(("azimuth_deg", "spread"), [([0.0, 0.0], 0.0), ([0.0, 180.0], 0.0), ([0.0, 60.0], 0.25)])
def test_the_spread_is_the_mean_square_sine_of_the_angles_to_the_mean_axis(azimuth_deg, spread):
    eyes = geometry.on_sphere(torch.tensor(azimuth_deg), torch.zeros(2), 1.0)
    assert geometry.nearest_to_axes(geometry.look_at(eyes))[1] == pytest.approx(spread, abs=1e-6)


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_an_orbit_sees_the_target_in_the_centre_from_one_distance_and_one_height(up):
    target, axis = torch.tensor([0.5, -1.0, 2.0]), "xyz".index(up)
    poses = geometry.orbit(target, 2.0, 30, 8, up)
    in_camera = geometry.world_to_camera(target.expand(8, 1, 3), poses)
    assert torch.allclose(in_camera, torch.tensor([0.0, 0, 2]).expand_as(in_camera), atol=1e-5)
    heights = poses[:, axis, 3] - target[axis]
    assert torch.allclose(heights, torch.ones(8), atol=1e-5)  # 2 sin 30
    assert (poses[:, axis, 1] < 0).all()  # down in the image is down in the world
    assert torch.allclose(torch.linalg.det(poses[:, :3, :3]), torch.ones(8))


def test_an_orbit_is_a_full_turn_in_equal_steps_from_the_front_to_the_right():
    eyes = geometry.orbit(torch.zeros(3), 1.0, 0, 4)[:, :3, 3]
    expected = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0]])  # and the fifth would be the first
    assert torch.allclose(eyes, expected, atol=1e-6)


@pytest.mark.parametrize("dtype, file, atol", [(torch.float64, "geometry_f64", 1e-12), (torch.float32, "geometry", 5e-6)])
def test_rays_and_points_are_those_of_the_published_code(parity, dtype, file, atol):
    given = {name: tensor.to(dtype) for name, tensor in tensors(parity.load("geometry")).items()}
    published = {name: tensor.to(dtype) for name, tensor in tensors(parity.load(file)).items()}
    uv, depth, pose, intrinsics = given["uv"], given["depth"], given["pose"], given["intrinsics"][:, :3, :3]

    directions, _ = geometry.rays(uv, pose, intrinsics)
    world = scenes.camera_to_world(geometry.lift(uv, depth, intrinsics), pose)
    in_front = world + world.new_tensor([0, 0, 4])  # the fixture takes these for camera-space points
    computed = {
        "ray_directions": directions,
        "ray_directions_cam": geometry.rays(uv, torch.eye(4, dtype=dtype), intrinsics)[0],
        "world_from_xy_depth": world,
        "depth_from_world": geometry.world_to_camera(world, pose)[..., 2:],
        "project": torch.cat([geometry.project(in_front, intrinsics), in_front[..., 2:]], dim=-1),
    }
    for name, tensor in computed.items():
        scale = published[name].abs().max().clamp(min=1)
        assert torch.allclose(tensor / scale, published[name] / scale, rtol=0, atol=atol), name


def test_normals_are_the_published_ones_turned_round_and_brought_to_unit_length(parity):
    """The published map is v x u of two unit vectors, not normalised, and points away from the camera."""
    given, published = tensors(parity.load("geometry")), tensors(parity.load("geometry_f64"))["normal_map"]
    points = geometry.lift(given["uv"], given["depth"], given["intrinsics"][:, :3, :3])
    normals = geometry.normal_map(points.mT.unflatten(2, (16, 16)))
    length = published.norm(dim=1, keepdim=True)
    assert length.min() < 0.8  # so normalising changes them
    assert torch.allclose(normals, -published / length, rtol=0, atol=1e-12)
