import shutil

import imageio.v3 as iio
import numpy as np
import pytest
import scenes
import torch

import data_util
import dataio
import util

SETTINGS = data_util.DatasetSettings(pixel_center=0.5)
NUM_CLASSES = 3


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Two instances of five views; tests only read it."""
    return scenes.write_split(tmp_path_factory.mktemp("scene") / "Ball" / "Ball.train", num_views=5)


@pytest.fixture
def own_split(split, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(split.parent, tmp_path / "Ball")
    return tmp_path / "Ball" / "Ball.train"


def make_dataset(split, side=16, labels=True, **options):
    instances = dataio.index_split(split, with_labels=labels)
    return dataio.SceneClassDataset(instances, side, SETTINGS, NUM_CLASSES if labels else None, **options)


def assert_same_items(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# Which folders and views


def test_instances_and_views_come_in_sorted_order(own_split):
    for folder in (own_split / "ball_b").iterdir():
        if folder.is_dir():
            shutil.copytree(folder, own_split / "a_ball" / folder.name)
    shutil.copy(own_split / "ball_b" / "intrinsics.txt", own_split / "a_ball" / "intrinsics.txt")
    instances = dataio.index_split(own_split, with_labels=True)
    assert [instance.name for instance in instances] == ["a_ball", "ball_a", "ball_b"]
    for instance in instances:
        expected = [f"{view:06d}" for view in range(5)]
        assert (
            [path.stem for path in scenes.paths_of(instance, "rgb")]
            == [path.stem for path in scenes.paths_of(instance, "seg")]
            == expected
        )
        for view, pose in zip(expected, instance.poses):
            assert (pose == scenes.load_pose(instance.folder / "pose" / f"{view}.txt")).all()


def test_hidden_folders_and_files_beside_the_instances_are_no_instances(own_split):
    (own_split / ".cache").mkdir()
    (own_split / "notes.txt").write_text("")
    assert [folder.name for folder in dataio.instance_folders(own_split)] == ["ball_a", "ball_b"]


@pytest.mark.parametrize("num_views, limit, expected", [(50, 3, [0, 24, 49]), (5, 5, [0, 1, 2, 3, 4]), (7, 1, [0])])
def test_views_are_spread_evenly_from_the_first_to_the_last(num_views, limit, expected):
    assert dataio.choose_views(num_views, limit) == expected


@pytest.mark.parametrize("num_views", [1, 2, 5, 24])
def test_no_view_is_repeated_however_many_are_requested(num_views):
    """The published code repeats views if more are requested than exist."""
    for limit in (*range(1, 60), dataio.ALL):
        views = dataio.choose_views(num_views, limit)
        assert len(views) == len(set(views)) == (num_views if limit == dataio.ALL else min(limit, num_views))
        assert views == sorted(views) and set(views) <= set(range(num_views))


def test_specific_views_are_taken_by_index_into_the_sorted_files(split):
    instances = dataio.index_split(split, specific_observation_idcs=[3, 1], max_num_observations=1)
    assert [path.stem for path in scenes.paths_of(instances[0], "rgb")] == ["000003", "000001"]
    assert (instances[0].poses[1] == scenes.load_pose(split / "ball_a" / "pose" / "000001.txt")).all()


def test_all_views_in_another_order_keep_that_order(split):
    for order in ([1, 0, 2, 3, 4], [4, 3, 2, 1, 0]):
        instance = dataio.index_split(split, specific_observation_idcs=order)[0]
        assert (
            [path.stem for path in scenes.paths_of(instance, "rgb")]
            == list(instance.views)
            == [f"{view:06d}" for view in order]
        )
        assert (instance.poses[1] == scenes.load_pose(split / "ball_a" / "pose" / f"{order[1]:06d}.txt")).all()


def test_a_view_that_is_named_twice_is_used_once():
    assert dataio.choose_views(5, specific_observation_idcs=[2, 0, 2]) == [2, 0]


@pytest.mark.parametrize("index", [5, -1])
def test_a_view_that_does_not_exist_is_named(split, index):
    with pytest.raises(util.InputError, match=rf"ball_a: has 5 views.* no {index}"):
        dataio.index_split(split, specific_observation_idcs=[0, index])


def test_instances_are_looked_up_by_name_before_their_number_is_limited(split):
    """The published code limits the list first, and then does not find the name."""
    folders = dataio.instance_folders(split, max_num_instances=1, specific_ins=["ball_b"])
    assert [folder.name for folder in folders] == ["ball_b"]


def test_an_unknown_instance_is_named(split):
    with pytest.raises(util.InputError, match="no instance named ball_c"):
        dataio.instance_folders(split, specific_ins=["ball_a", "ball_c"])


def test_a_missing_and_an_empty_split_are_named(tmp_path):
    for root in (tmp_path, tmp_path / "Ball.val"):
        with pytest.raises(util.InputError, match=str(root)):
            dataio.index_split(root)


def remove(*parts):
    return lambda instance: instance.joinpath(*parts).unlink()


def rename(folder, old, new):
    return lambda instance: (instance / folder / old).rename(instance / folder / new)


FAULTS = {
    "a pose too few": (remove("pose", "000002.txt"), "5 images but 4 poses.*000002"),
    "an image too few": (remove("rgb", "000004.png"), "4 images but 5 poses.*000004"),
    "a label map too few": (remove("seg", "000000.npy"), "5 images but 4 label maps.*000000"),
    "another name": (rename("pose", "000001.txt", "7.txt"), "5 images but 5 poses.*000001, 7"),
    "no images": (lambda instance: shutil.rmtree(instance / "rgb"), "no images"),
    "no poses": (lambda instance: shutil.rmtree(instance / "pose"), "5 images but 0 poses"),
    "no intrinsics": (remove("intrinsics.txt"), "intrinsics.txt"),
    "an image that is text": (lambda instance: (instance / "rgb" / "000003.png").write_text("x"), "000003.png"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_instance_whose_files_do_not_belong_together_is_named_with_what_is_odd(own_split, fault):
    spoil, message = FAULTS[fault]
    spoil(own_split / "ball_b")
    with pytest.raises(util.InputError, match=rf"ball_b.*{message}"):
        dataio.index_split(own_split, with_labels=True)


def test_without_labels_no_label_map_is_needed(own_split):
    for name in ("ball_a", "ball_b"):
        shutil.rmtree(own_split / name / "seg")
    item = make_dataset(own_split, labels=False)[0]
    assert "seg_labels" not in item and item["rgb"].shape == (256, 4)


def test_the_class_list_is_looked_for_beside_the_split(split, monkeypatch):
    assert data_util.load_class_names(dataio.find_class_list(split, "Ball")) == ["background", "upper half", "lower half"]
    monkeypatch.chdir(split)
    assert dataio.find_class_list(".", "Ball").is_file()


# Items


def test_an_item_is_one_observation_with_all_its_rays(split):
    dataset = make_dataset(split, side=8)
    assert len(dataset) == 10
    item, instance = dataset[7], dataset.instances[1]
    assert dataset.name_of(7) == ("ball_b", "000002")
    assert (item["instance_idx"], item["observation_idx"]) == (1, 7)
    image, _ = scenes.composed_image(scenes.paths_of(instance, "rgb")[2], 8)
    np.testing.assert_array_equal(item["rgb"], image.reshape(64, 4))
    np.testing.assert_array_equal(
        item["seg_labels"], data_util.load_seg_labels(scenes.paths_of(instance, "seg")[2], 8, 0.5).ravel()
    )
    np.testing.assert_array_equal(item["cam2world"], instance.poses[2])
    np.testing.assert_allclose(item["intrinsics"], [[9.6, 0, 4], [0, 9.6, 4], [0, 0, 1]], rtol=1e-6)
    assert item["uv"][:2].tolist() == [[0.5, 0.5], [1.5, 0.5]]


def test_instances_may_have_different_numbers_of_views(own_split):
    for folder, suffix in (("rgb", "png"), ("pose", "txt"), ("seg", "npy")):
        (own_split / "ball_a" / folder / f"000001.{suffix}").unlink()
    dataset = make_dataset(own_split)
    assert [dataset.name_of(i) for i in (1, 3, 4)] == [("ball_a", "000002"), ("ball_a", "000004"), ("ball_b", "000000")]


def test_random_rays_carry_the_colour_and_class_of_their_pixels(split):
    dataset = make_dataset(split, side=8, rays_per_image=20)
    whole, drawn = dataset[3], dataset[dataio.RayDraw(3, (0, 0))]
    pixel = (drawn["uv"] - 0.5) @ [1, 8]
    assert len(pixel) == 20 and len(set(pixel)) > 10
    for name in ("rgb", "seg_labels", "uv"):
        np.testing.assert_array_equal(drawn[name], whole[name][pixel.astype(int)])


def test_the_same_seed_draws_the_same_rays_and_another_one_others(split):
    dataset = make_dataset(split, rays_per_image=20, foreground_fraction=0.5)
    assert_same_items(dataset[dataio.RayDraw(3, (0, 5))], dataset[dataio.RayDraw(3, (0, 5))])
    for seed in ((0, 6), (1, 5)):
        assert (dataset[dataio.RayDraw(3, seed)]["uv"] != dataset[dataio.RayDraw(3, (0, 5))]["uv"]).any()


def test_without_a_number_of_rays_a_draw_is_the_whole_image(split):
    dataset = make_dataset(split)
    assert_same_items(dataset[dataio.RayDraw(3, (0, 0))], dataset[3])


@pytest.mark.parametrize("fraction, least", [(1.0, 40), (0.75, 30)])
def test_at_least_the_given_share_of_rays_meets_the_object(split, fraction, least):
    dataset = make_dataset(split, rays_per_image=40, foreground_fraction=fraction)
    drawn = dataset[dataio.RayDraw(0, (0, 0))]
    on_object = drawn["seg_labels"] > 0
    assert len(on_object) == 40 and on_object[:least].all()
    assert on_object.all() == (fraction == 1)  # the others come from everywhere


def test_an_image_without_foreground_still_gives_its_rays(own_split):
    iio.imwrite(own_split / "ball_a" / "rgb" / "000000.png", np.zeros((16, 16, 4), dtype=np.uint8))
    dataset = make_dataset(own_split, rays_per_image=40, foreground_fraction=0.8)
    assert dataset[dataio.RayDraw(0, (0, 0))]["rgb"].shape == (40, 4)


KEPT = {"in memory": lambda folder: dict(preload=True), "in a cache": lambda folder: dict(cache=folder / "cache")}


@pytest.mark.slow
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("side", [16, 8, 24])
def test_items_of_kept_images_are_the_same_bit_for_bit(split, tmp_path, side, kept):
    options = dict(side=side, rays_per_image=30, foreground_fraction=0.5)
    fresh, held = make_dataset(split, **options), make_dataset(split, **KEPT[kept](tmp_path), **options)
    for key in (0, 9, dataio.RayDraw(4, (1, 2))):
        assert_same_items(fresh[key], held[key])


@pytest.mark.parametrize("kept", KEPT)
def test_kept_images_are_not_read_again(own_split, tmp_path, kept):
    dataset = make_dataset(own_split, **KEPT[kept](tmp_path))
    shutil.rmtree(own_split)
    assert len(dataset[0]["rgb"]) == 256


@pytest.mark.parametrize("kept", KEPT)
def test_changing_an_item_does_not_change_the_data_set(split, tmp_path, kept):
    """A whole image is returned as a copy, so that the kept one does not change."""
    dataset = make_dataset(split, side=8, **KEPT[kept](tmp_path))
    item = dataset[0]
    for name in ("rgb", "seg_labels"):
        item[name][:] = 0
    assert_same_items(dataset[0], make_dataset(split, side=8)[0])


def test_only_the_rays_that_are_drawn_are_composed(split, monkeypatch):
    composed = []
    compose = data_util.compose
    monkeypatch.setattr(data_util, "compose", lambda rgba, *more: composed.append(len(rgba)) or compose(rgba, *more))
    make_dataset(split, rays_per_image=7)[dataio.RayDraw(0, (0, 0))]
    assert composed == [7]


def test_an_observation_beyond_the_last_one_is_an_error(split):
    dataset = make_dataset(split)
    for index in (10, -1):
        with pytest.raises(IndexError):
            dataset[index]


@pytest.mark.parametrize("wrong", [3, -2])
def test_a_label_beyond_the_class_list_is_an_error_that_names_the_file(own_split, wrong):
    path = own_split / "ball_b" / "seg" / "000001.npy"
    np.save(path, np.full((16, 16), wrong))
    dataset = make_dataset(own_split)
    with pytest.raises(util.InputError, match=f"{path}.*{wrong}.*ends at 2"):
        dataset[6]


def test_unlabelled_pixels_are_passed_on(own_split):
    np.save(own_split / "ball_a" / "seg" / "000000.npy", np.full((16, 16), util.UNLABELLED))
    assert (make_dataset(own_split)[0]["seg_labels"] == util.UNLABELLED).all()


# Batches


def draws(*args, **options):
    return list(dataio.BatchOrder(*args, **options))


@pytest.mark.parametrize("num_observations, batch_size", [(12, 4), (10, 4), (7, 3), (3, 8), (1, 2)])
def test_every_observation_comes_once_per_epoch(num_observations, batch_size):
    """Also if batches extend into the next epoch, or if the data set is smaller than a batch."""
    order = draws(num_observations, batch_size, 0, 4 * num_observations, seed=1)
    assert len(order) == 4 * num_observations and all(len(batch) == batch_size for batch in order)
    indices = [draw.index for batch in order for draw in batch]
    epochs = [indices[i : i + num_observations] for i in range(0, len(indices), num_observations)]
    assert all(sorted(epoch) == list(range(num_observations)) for epoch in epochs)
    if num_observations > 3:
        assert len(set(map(tuple, epochs))) > 1  # shuffled again in each epoch


def test_starting_at_a_later_step_gives_the_same_batches():
    assert draws(7, 3, 5, 12, seed=2) == draws(7, 3, 0, 12, seed=2)[5:]


def test_another_seed_gives_another_order():
    assert draws(20, 4, 0, 5, seed=0) != draws(20, 4, 0, 5, seed=1)


def test_no_two_draws_of_a_run_share_their_seed():
    seeds = [draw.seed for batch in draws(3, 8, 0, 10, seed=0) for draw in batch]
    assert len(set(seeds)) == len(seeds)


def test_nothing_is_left_to_do_after_the_last_step():
    assert draws(7, 3, 5, 5, seed=0) == [] and len(dataio.BatchOrder(7, 3, 8, 5, seed=0)) == 0


def test_without_shards_the_order_is_that_of_earlier_versions():
    order = [np.random.default_rng((5, epoch)).permutation(7).tolist() for epoch in range(3)]
    expected = [(index, (5, position)) for position, index in enumerate(sum(order, []))]
    assert sum(draws(7, 3, 0, 7, seed=5), []) == expected


SHARD_OF = [0, 0, 0, 1, 1, 1, 1, 0, 0, 2]  # shards of five, four and one instances


def test_each_shard_gives_the_same_number_to_every_batch_in_epochs_of_its_own():
    batches = draws(10, 6, 0, 20, seed=1, num_shards=3, shard_of=SHARD_OF)
    of_shards = [[], [], []]
    for batch in batches:
        shards = [SHARD_OF[draw.index] for draw in batch]
        assert shards == [0, 0, 1, 1, 2, 2]
        for shard, draw in zip(shards, batch):
            of_shards[shard].append(draw.index)
    for shard, indices in enumerate(of_shards):
        members = [i for i, of in enumerate(SHARD_OF) if of == shard]
        epochs = [indices[i : i + len(members)] for i in range(0, len(indices), len(members))]
        assert all(sorted(epoch) == members for epoch in epochs)
        assert len(members) == 1 or len(set(map(tuple, epochs))) > 1
    seeds = [draw.seed for batch in batches for draw in batch]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("first", [0, 7])
def test_the_shards_of_all_processes_make_the_batches_of_one_process(first):
    options = dict(num_shards=3, shard_of=SHARD_OF)
    whole = draws(10, 6, 0, 12, seed=1, **options)[first:]
    parts = [draws(10, 6, first, 12, seed=1, shards=shards, **options) for shards in ((0,), (1, 2))]
    assert [one + other for one, other in zip(*parts, strict=True)] == whole


def test_shards_that_cannot_share_a_batch_are_refused():
    with pytest.raises(util.InputError, match="4 images .* 3 processes; choose a multiple of 3"):
        dataio.BatchOrder(10, 4, 0, 1, 0, num_shards=3, shard_of=SHARD_OF)
    with pytest.raises(util.InputError, match="only 3 of 4 processes would have instances"):
        dataio.BatchOrder(10, 4, 0, 1, 0, num_shards=4, shard_of=SHARD_OF)


def test_processes_divide_a_batch_by_instances_down_to_its_rays(split):
    options = dict(batch_size=6, start_step=2, end_step=5, seed=3, num_shards=2)
    dataset = make_dataset(split, rays_per_image=10)
    whole, *parts = (dataio.training_batches(dataset, **options, shards=shards) for shards in (None, (0,), (1,)))
    for batch, one, other in zip(whole, *parts, strict=True):
        assert one["instances"].tolist() == [0] and other["instances"].tolist() == [1]
        assert batch["instances"].tolist() == [0, 1] and batch["instance_of"].tolist() == [0] * 3 + [1] * 3
        for name in batch.keys() - {"instances", "instance_of"}:
            assert torch.equal(batch[name], torch.cat([one[name], other[name]])), name


def test_more_processes_than_instances_are_refused(split):
    with pytest.raises(util.InputError, match="only 2 of 3 processes would have instances to train on; start fewer"):
        dataio.training_batches(make_dataset(split), 6, 0, 1, num_shards=3)


def test_a_data_set_smaller_than_a_batch_fills_it_with_other_rays(split):
    instances = dataio.index_split(split, specific_observation_idcs=[0], max_num_instances=1)
    dataset = dataio.SceneClassDataset(instances, 16, SETTINGS, rays_per_image=12)
    batches = list(dataio.training_batches(dataset, batch_size=4, start_step=0, end_step=2))
    assert [batch["rgb"].shape for batch in batches] == [(4, 12, 4)] * 2
    assert not torch.equal(batches[0]["uv"][0], batches[0]["uv"][1])


def test_batches_are_collated_tensors(split):
    batch = next(iter(dataio.training_batches(make_dataset(split), 3, 0, 1)))
    shapes = {name: tuple(tensor.shape) for name, tensor in batch.items()}
    assert shapes == {
        "instance_idx": (3,),
        "observation_idx": (3,),
        "uv": (3, 256, 2),
        "cam2world": (3, 4, 4),
        "intrinsics": (3, 3, 3),
        "rgb": (3, 256, 4),
        "seg_labels": (3, 256),
        "instances": (2,),
        "instance_of": (3,),
    }
    kinds = {name: tensor.dtype for name, tensor in batch.items()}
    integers = ("instance_idx", "observation_idx", "seg_labels", "instances", "instance_of")
    assert all(kinds[name] == torch.int64 for name in integers)
    assert all(kinds[name] == torch.float32 for name in ("uv", "cam2world", "intrinsics", "rgb"))


def test_a_batch_is_sorted_by_instance_and_names_each_instance_once(split):
    dataset = make_dataset(split)
    batch = dataio.collate([dataset[i] for i in (7, 3, 9, 1, 7)])
    assert batch["observation_idx"].tolist() == [3, 1, 7, 9, 7]  # the order within an instance does not change
    assert batch["instance_idx"].tolist() == [0, 0, 1, 1, 1]
    assert batch["instances"].tolist() == [0, 1] and batch["instance_of"].tolist() == [0, 0, 1, 1, 1]
    np.testing.assert_array_equal(batch["cam2world"][2], dataset[7]["cam2world"])
    one = dataio.collate([dataset[8]])
    assert one["instances"].tolist() == [1] and one["instance_of"].tolist() == [0]


def test_codes_that_come_with_the_data_stay_with_their_observations():
    items = [{"instance_idx": instance, "z": np.float32([instance, 0.5])} for instance in (2, 0, 2)]
    batch = dataio.collate(items)
    assert batch["z"].tolist() == [[0, 0.5], [2, 0.5], [2, 0.5]] and batch["instance_of"].tolist() == [0, 1, 1]


def test_a_batch_is_given_the_rows_of_a_latent_table(split):
    dataset = make_dataset(split)
    batch = dataio.collate([dataset[i] for i in (1, 2, 7)])
    placed = dataio.with_rows(batch, torch.tensor([8, 3]))
    assert placed["instance_idx"].tolist() == [8, 8, 3] and placed["instances"].tolist() == [8, 3]
    assert torch.equal(placed["instances"][placed["instance_of"]], placed["instance_idx"])
    assert batch["instance_idx"].tolist() == [0, 0, 1] and placed["uv"] is batch["uv"]


@pytest.mark.parametrize("kept", [None, *KEPT])
def test_workers_give_the_same_batches_in_the_same_order(split, tmp_path, kept):
    options = dict(rays_per_image=10, foreground_fraction=0.5)
    alone = list(dataio.training_batches(make_dataset(split, **options), 3, 0, 4, seed=3))
    dataset = make_dataset(split, **options, **(KEPT[kept](tmp_path) if kept else {}))
    helped = list(dataio.training_batches(dataset, 3, 0, 4, seed=3, num_workers=2))
    assert len(alone) == len(helped) == 4
    for a, b in zip(alone, helped):
        assert_same_items(a, b)


def test_ordered_batches_reuse_their_workers(split):
    batches = dataio.ordered_batches(make_dataset(split), batch_size=4, num_workers=1)
    first, again = list(batches), list(batches)
    for a, b in zip(first, again, strict=True):
        assert_same_items(a, b)


def test_a_file_that_cannot_be_used_is_the_same_sentence_from_a_worker(own_split, capsys):
    dataset = make_dataset(own_split)
    np.save(own_split / "ball_a" / "seg" / "000000.npy", np.full((16, 16), 9))
    messages = []
    for num_workers in (0, 1):
        read = util.command(lambda _: list(dataio.training_batches(dataset, 10, 0, 1, num_workers=num_workers)))
        with pytest.raises(SystemExit):
            read()
        messages.append(capsys.readouterr().err)
    assert messages[0] == messages[1] and messages[0].count("\n") == 1


@pytest.mark.slow
def test_ordered_batches_hold_every_observation_once_and_the_last_one_may_be_small(split):
    batches = list(dataio.ordered_batches(make_dataset(split, rays_per_image=5), batch_size=4))
    assert [len(batch["rgb"]) for batch in batches] == [4, 4, 2]
    assert torch.cat([batch["observation_idx"] for batch in batches]).tolist() == list(range(10))
    assert batches[0]["rgb"].shape[1] == 256  # whole images, although training draws random rays


@pytest.mark.parametrize("content", [b"", b"not an array", None])
def test_a_broken_label_map_is_found_when_the_folder_is_read(own_split, content):
    path = own_split / "ball_a" / "seg" / "000001.npy"
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    with pytest.raises(util.InputError, match="000001.npy"):
        dataio.index_split(own_split, with_labels=True)
    assert dataio.index_split(own_split)  # without labels the file does not matter
