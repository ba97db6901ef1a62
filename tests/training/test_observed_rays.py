import numpy as np
import pytest
import scenes
import torch

import dataio
from training import observed_rays


@pytest.fixture(scope="module")
def dataset(ball_split):
    """Two balls, four views of 16 x 16 each."""
    return opened(ball_split)


def opened(split, **choice):
    instances = dataio.index_split(split, with_labels=True, **choice)
    return dataio.SceneClassDataset(instances, 16, dataio.dataset_settings(split), num_classes=3)


def test_a_draw_of_all_pixels_has_each_pixel_once(dataset):
    observed = observed_rays.ObservedRays(dataset, "cpu")
    drawn = observed.draw(torch.tensor([1, 0]), 7, 4 * 256)
    assert drawn.places.tolist() == [list(range(1024, 2048)), list(range(1024))]
    for instance, index in ((0, 6), (1, 2)):  # observation 6 is view 2 of instance 1
        item, here = dataset[index], slice(2 * 256, 3 * 256)
        assert np.array_equal(drawn.rgb[instance, here], item["rgb"][:, :3])
        assert np.array_equal(drawn.seg_labels[instance, here], item["seg_labels"])


def test_rays_of_several_cameras_are_those_of_each(dataset):
    observed = observed_rays.ObservedRays(dataset, "cpu")
    rays = observed.draw(torch.tensor([0]), 1, 4 * 256).rays
    item = dataset[3]
    uv, cam2world, intrinsics = (torch.from_numpy(item[name]) for name in ("uv", "cam2world", "intrinsics"))
    expected = observed_rays.geometry.cast(uv, cam2world, intrinsics)
    assert torch.allclose(rays.direction[0, 768:], expected.direction, atol=1e-6)
    assert torch.allclose(rays.depth_per_length[0, 768:], expected.depth_per_length, atol=1e-6)
    assert torch.equal(rays.origin[0, 768:], expected.origin.expand(256, 3))


def test_a_draw_depends_only_on_seed_name_and_number(ball_split, dataset):
    both = observed_rays.ObservedRays(dataset, "cpu")
    alone = observed_rays.ObservedRays(opened(ball_split, specific_ins=["ball_b"]), "cpu")
    shared = observed_rays.ObservedRays(dataset, "cpu", instances=[1])
    other_seed = observed_rays.ObservedRays(dataset, "cpu", seed=1)

    def rays_of(observed, index, number=3):
        return observed.draw(torch.tensor(index), number, 50, 0.5).rays.direction[-1]

    expected = rays_of(both, [1])
    assert torch.equal(rays_of(alone, [0]), expected)
    assert torch.equal(rays_of(shared, [1]), expected)
    assert torch.equal(rays_of(both, [0, 1]), expected)
    assert not torch.equal(rays_of(both, [1], number=4), expected)
    assert not torch.equal(rays_of(other_seed, [1]), expected)


def test_the_share_from_the_foreground_is_as_asked_for(dataset):
    observed = observed_rays.ObservedRays(dataset, "cpu")
    drawn = observed.draw(torch.tensor([0, 1]), 1, 100, 0.6)
    assert (drawn.seg_labels[:, :60] > 0).all()
    assert not (drawn.seg_labels[:, 60:] > 0).all(dim=1).any()
    assert len(drawn.places[0, :60].unique()) == 60


def test_an_instance_without_foreground_is_drawn_from_all_over(tmp_path):
    split = scenes.write_split(tmp_path / "Ball" / "Ball.train")
    for path in (split / "ball_b" / "rgb").iterdir():
        scenes.iio.imwrite(path, np.full((16, 16, 4), 255, dtype=np.uint8) * np.array([1, 1, 1, 0], dtype=np.uint8))
    observed = observed_rays.ObservedRays(opened(split), "cpu")
    drawn = observed.draw(torch.tensor([0, 1]), 1, 100, 0.6)
    assert (drawn.seg_labels[0, :60] > 0).all()
    assert drawn.places[1].min() >= 1024 and len(drawn.places[1, :60].unique()) == 60


def test_of_many_views_each_keeps_its_share(dataset, monkeypatch):
    monkeypatch.setattr(observed_rays, "MAX_PER_INSTANCE", 256)
    observed = observed_rays.ObservedRays(dataset, "cpu")
    assert observed.spans.tolist() == [[0, 256], [256, 256]]
    views, counts = observed.view_and_pixel[:, 0].unique(return_counts=True)
    assert views.tolist() == list(range(8)) and counts.tolist() == [64] * 8
    assert len(observed.view_and_pixel[:256, 1].unique()) == 256  # the views complement one another


def test_starts_of_an_instance_see_the_same_pixels(dataset):
    observed = observed_rays.ObservedRays(dataset, "cpu")
    places = observed.draw(torch.tensor([1, 0, 1]), 3, 50, 0.5).places
    assert torch.equal(places[0], places[2]) and torch.equal(
        places[1:], observed.draw(torch.tensor([0, 1]), 3, 50, 0.5).places
    )


def test_random_numbers_are_uniform_and_differ_between_keys_and_draws():
    keys = [observed_rays.key_of(0, name) for name in ("a", "b")]
    numbers = np.stack([observed_rays.uniform(key, number, 20_000) for key in keys for number in (0, 1)])
    assert numbers.min() >= 0 and numbers.max() < 1
    shares = np.histogram(numbers, 10, (0, 1))[0] / numbers.size
    assert np.abs(shares - 0.1).max() < 0.01
    assert np.abs(np.corrcoef(numbers) - np.eye(4)).max() < 0.03
    assert abs(np.corrcoef(numbers[0, 1:], numbers[0, :-1])[0, 1]) < 0.03
    assert np.array_equal(observed_rays.uniform(keys[1], 1, 20_000), numbers[3])
