"""datasets/making/viewpoints.py: positions of the cameras of each kind of views."""

import numpy as np
import pytest
import torch

import geometry
import util
from datasets.making import viewpoints

ORIGIN = torch.zeros(1, 3)


def eyes(kind, num_views=2000, **options):
    cam2world = viewpoints.cameras(kind, num_views, np.random.default_rng(0), **options)
    assert cam2world.shape == (num_views, 4, 4) and cam2world.dtype == torch.float32
    depths = geometry.world_to_camera(ORIGIN.expand(num_views, 1, 3), cam2world)[..., 2:]
    assert torch.allclose(depths, torch.tensor(options.get("distance", viewpoints.DISTANCE)), atol=1e-5)  # all look there
    return cam2world[:, :3, 3].numpy()


def test_sphere_and_hemisphere_are_covered_evenly():
    for kind, lowest in (("sphere", -1), ("hemisphere", 0)):
        height = eyes(kind)[:, 2] / viewpoints.DISTANCE
        share = np.histogram(height, bins=4, range=(lowest, 1))[0] / len(height)
        assert np.allclose(share, 0.25, atol=0.04), kind


def test_an_orbit_is_level_and_a_full_turn():
    points = eyes("orbit", 8, elevation_deg=(20.0, 40.0), distance=2.0)
    assert np.allclose(points[:, 2], 2 * np.sin(np.deg2rad(30)), atol=1e-5)
    steps = np.linalg.norm(np.roll(points, -1, axis=0) - points, axis=1)
    assert np.allclose(steps, steps[0], atol=1e-4)


@pytest.mark.parametrize("kind", ["band", "sphere", "hemisphere", "spiral"])
def test_given_elevations_replace_those_of_the_kind(kind):
    elevation = np.rad2deg(np.arcsin(eyes(kind, elevation_deg=(30.0, 50.0))[:, 2] / viewpoints.DISTANCE))
    assert 29.9 < elevation.min() < 31 and 49 < elevation.max() < 50.1


def test_a_spiral_at_one_elevation_is_a_circle():
    points = eyes("spiral", 70, elevation_deg=(10.0, 10.0))
    assert np.allclose(points[:, 2], viewpoints.DISTANCE * np.sin(np.deg2rad(10)), atol=1e-5)


def test_poses_from_files_are_not_changed(tmp_path):
    expected = viewpoints.spiral(3, distance=2.0)
    for i, pose in enumerate(expected):
        np.savetxt(tmp_path / f"{i:06d}.txt", pose)
    found = viewpoints.cameras(str(tmp_path), 50, np.random.default_rng(0))
    assert torch.allclose(found, expected, atol=1e-6)


def test_an_unknown_kind_is_refused():
    with pytest.raises(util.InputError, match="helix: expected.*band, sphere, hemisphere, spiral, orbit.*folder"):
        viewpoints.cameras("helix", 5, np.random.default_rng(0))


def test_field_of_view():
    assert viewpoints.focal_of(90) == pytest.approx(0.5)
    intrinsics = viewpoints.intrinsics_of(100, viewpoints.focal_of(90))
    edge = geometry.project(torch.tensor([[1.0, 0.0, 1.0]]), intrinsics)
    assert torch.allclose(edge, torch.tensor([[100.0, 50.0]]))


@pytest.mark.parametrize("num_views", [70, 100, 251])
def test_test_view_65_is_the_three_quarter_front_view(num_views):
    eyes = viewpoints.spiral(num_views)[:, :3, 3]
    expected = geometry.on_sphere(torch.tensor(35.0), torch.tensor(25.0), viewpoints.DISTANCE)
    assert torch.allclose(eyes[65], expected, atol=1e-5)
    assert eyes[65, 0] > 0 > eyes[65, 1] and eyes[65, 2] > 0  # right, front, above
    elevation = torch.rad2deg(torch.asin(eyes[:, 2] / viewpoints.DISTANCE))
    assert elevation.min() > -10.01 and elevation.max() < 60.01
    assert elevation.max() - elevation.min() > 65
    distances = torch.cdist(eyes, eyes) + 10 * torch.eye(num_views)
    assert distances.min() > 1e-3  # no view twice


def test_random_views_fill_the_band_evenly():
    eyes = viewpoints.scattered(4000, np.random.default_rng(0))[:, :3, 3].numpy() / viewpoints.DISTANCE
    low, high = np.sin(np.deg2rad(viewpoints.BAND_DEG))
    assert eyes[:, 2].min() >= low - 1e-6 and eyes[:, 2].max() <= high + 1e-6
    share = np.histogram(eyes[:, 2], bins=4, range=(low, high))[0] / 4000
    assert np.allclose(share, 0.25, atol=0.03)
    assert np.abs(eyes[:, :2].mean(axis=0)).max() < 0.03
