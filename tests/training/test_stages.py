"""Variants of the stages; test_train.py tests the default ones."""

import functools
import shutil

import numpy as np
import pytest
import scenes
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import checkpoints
import data_util
import dataio
import published
import srns
import train
import unet
from rendering import renderer
from training import head_update, losses, stage_data

TINY_UNET = dict(num_down=2, base_channels=4, max_channels=8, dropout=0.2)


@pytest.fixture
def small_unets(monkeypatch):
    """Replaces the published U-Nets of 70 million parameters with small ones, whose sides are multiples of 4."""
    monkeypatch.setattr(srns.UNetBaseline, "SIZES", TINY_UNET)
    monkeypatch.setattr(unet.UNetRenderer, "SIZES", TINY_UNET)


@pytest.fixture
def refused(refuses):
    """Asserts that train.main refuses the arguments."""
    return functools.partial(refuses, train.main)


@pytest.fixture(scope="module")
def vanilla_run(ball_split, tmp_path_factory):
    logs = tmp_path_factory.mktemp("vanilla_run")
    train.main(scenes.train_options(ball_split, logs, "vanilla", class_weight=0))
    return logs / "vanilla"


@pytest.fixture(scope="module")
def linear_run(ball_split, vanilla_run, tmp_path_factory):
    """A linear head trained on `vanilla_run`."""
    logs = tmp_path_factory.mktemp("linear_run")
    options = dict(checkpoint_path=vanilla_run, model_type="linear", max_steps_per_img_sidelength=100, lr=1e-2)
    train.main(scenes.train_options(ball_split, logs, "linear", **options))
    return logs / "linear"


@pytest.fixture
def test_split(tmp_path):
    return scenes.write_split(tmp_path / "Ball" / "Ball.test", names=("ball_x", "ball_y"))


def scalars(folder, tag):
    events = EventAccumulator(str(folder / "events"))
    events.Reload()
    return [event.value for event in events.Scalars(tag)]


def tags(folder):
    events = EventAccumulator(str(folder / "events"))
    events.Reload()
    return events.Tags()


def assert_only_codes_differ(before, after):
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before if key != "latent_codes.weight")


# Variants of the model


def test_a_single_srn_learns_one_object_without_codes(ball_split, tmp_path):
    options = dict(fit_single_srn=True, specific_ins="ball_b", class_weight=0, val_root=ball_split)
    options |= dict(max_steps_per_img_sidelength=60, lr=1e-2, rays_per_image=64, batch_size_per_img_sidelength=4)
    train.main(scenes.train_options(ball_split, tmp_path, "run", **options))
    checkpoint = checkpoints.load(tmp_path / "run")
    assert checkpoint["sizes"]["fit_single_srn"] and checkpoint["instances"] == ["ball_b"]
    assert not any("latent" in key or "hyper" in key for key in checkpoint["model"])
    assert scalars(tmp_path / "run", "val_psnr")[-1] > 12
    assert "scaled_latent_loss" not in tags(tmp_path / "run")["scalars"]


def test_a_single_srn_of_several_objects_is_refused(refused, ball_split, tmp_path):
    options = dict(fit_single_srn=True, class_weight=0)
    refused(scenes.train_options(ball_split, tmp_path, "run", **options), "name it with --specific_ins")


@pytest.fixture
def split_with_params(ball_split, tmp_path):
    """`ball_split` with a latent vector of six numbers for each view."""
    split = tmp_path / "Ball" / "Ball.train"
    shutil.copytree(ball_split.parent, split.parent)
    for instance, folder in enumerate(sorted(split.iterdir())):
        (folder / "params").mkdir()
        for view in range(4):
            np.savetxt(folder / "params" / f"{view:06d}.txt", [instance, view, 0.5, -1, 2, 3])
    return split


def test_codes_can_come_with_the_data(split_with_params, tmp_path):
    options = dict(has_params=True, class_weight=0, embedding_size=None)
    train.main(scenes.train_options(split_with_params, tmp_path, "run", **options))
    checkpoint = checkpoints.load(tmp_path / "run")
    assert checkpoint["sizes"]["latent_dim"] == 6 and "latent_codes.weight" not in checkpoint["model"]
    model = checkpoints.load_srn(checkpoint)
    instances = dataio.index_split(split_with_params, with_params=True)
    batch = next(iter(dataio.ordered_batches(dataio.SceneClassDataset(instances, 16, data_util.DatasetSettings()), 8)))
    assert batch["z"][5].tolist() == [1, 1, 0.5, -1, 2, 3]
    assert torch.equal(renderer.render(model, batch)["z"], batch["z"])
    again = dict(options, checkpoint_path=tmp_path / "run", has_params=None, max_steps_per_img_sidelength=3)
    train.main(scenes.train_options(split_with_params, tmp_path, "run", **again))
    assert checkpoints.load(tmp_path / "run")["step"] == 3


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (lambda params: (params / "000003.txt").unlink(), "4 images but 3 latent vectors"),
        (lambda params: (params / "000003.txt").write_text("1 2"), "expected a latent vector of 6 finite numbers, found 2"),
        (lambda params: [path.write_text("1 2") for path in params.iterdir()], "expected vectors of 6 numbers"),
    ],
)
def test_latent_vectors_that_do_not_belong_together_are_named(refused, split_with_params, tmp_path, spoil, reason):
    spoil(split_with_params / "ball_b" / "params")
    options = dict(has_params=True, class_weight=0, embedding_size=None)
    refused(scenes.train_options(split_with_params, tmp_path, "run", **options), reason)


def test_the_unet_renderer_trains_and_goes_on(small_unets, ball_split, tmp_path):
    options = dict(use_unet_renderer=True, class_weight=0, val_root=ball_split)
    train.main(scenes.train_options(ball_split, tmp_path, "run", **options))
    before = checkpoints.load(tmp_path / "run")
    assert before["sizes"]["use_unet_renderer"] and "pixel_generator.net.0.in_layer.0.net.1.weight" in before["model"]
    options |= dict(checkpoint_path=tmp_path / "run", max_steps_per_img_sidelength=3, use_unet_renderer=None)
    train.main(scenes.train_options(ball_split, tmp_path, "run", **options))
    assert checkpoints.load(tmp_path / "run")["step"] == 3


def test_the_published_unets_need_sides_of_128(refused, ball_split, vanilla_run, tmp_path):
    for options in (dict(use_unet_renderer=True, class_weight=0), dict(model_type="unet", checkpoint_path=vanilla_run)):
        refused(scenes.train_options(ball_split, tmp_path, "run", **options), "needs multiples of 128")


@pytest.mark.parametrize(
    "options, reason",
    [
        (dict(fit_single_srn=True, has_params=True), "--has_params cannot go with it"),
        (dict(fit_single_srn=True, overwrite_embeddings=True, checkpoint_path="x"), "no latent codes of its own"),
        (dict(has_params=True, freeze_networks=True, checkpoint_path="x"), "no latent codes of its own"),
        (dict(freeze_networks=True), "--freeze_networks needs the SRN of stage 1"),
        (dict(use_unet_renderer=True, rays_per_image=4, class_weight=0), "the U-Net renderer needs whole images"),
        (dict(linear_path="x", checkpoint_path="x"), "--linear_path: give --model_type"),
        (dict(linear_path="x", checkpoint_path="x", model_type="mlp", class_weight=0), "must not be 0"),
        (dict(overwrite_embeddings=True, checkpoint_path="x", l1_weight=0, class_weight=0), "nothing to learn from"),
        (dict(validation_path="x"), "--validation_path is for stage 2"),
        (dict(validation_path="x", model_type="mlp", checkpoint_path="x"), "give that too"),
        (dict(l1_weight=0, class_weight=0), "nothing to learn from"),
        (dict(head_reg_weight=1), "--head_reg_weight is for stage 2"),
        (dict(initial_depth_std=1, model_type="mlp", checkpoint_path="x"), "are for stage 1"),
        (dict(validation=True), "--validation needs a split"),
        (dict(model_type="unet", checkpoint_path="x", rays_per_image=3), "the U-Net baseline needs whole images"),
    ],
)
def test_variants_that_cannot_work_are_refused_before_data_are_read(refused, tmp_path, options, reason):
    refused(scenes.train_options(tmp_path / "no_data", tmp_path, "run", **options), reason)


@pytest.mark.parametrize("flag", ["fit_single_srn", "has_params", "use_unet_renderer"])
def test_a_variant_that_contradicts_the_checkpoint_is_refused(refused, ball_split, vanilla_run, tmp_path, flag):
    split = ball_split
    if flag == "has_params":
        split = tmp_path / "Ball" / "Ball.train"
        shutil.copytree(ball_split.parent, split.parent)
        for folder in split.iterdir():
            shutil.copytree(folder / "pose", folder / "params")
    options = {"checkpoint_path": vanilla_run, "class_weight": 0, "specific_ins": "ball_a", flag: True}
    refused(scenes.train_options(split, tmp_path, "run", **options), f"was trained with {flag} False, but True is asked for")


def test_rays_start_at_random_depths_in_training_only(ball_split, tmp_path):
    train.main(scenes.train_options(ball_split, tmp_path, "run", class_weight=0, initial_depth_std=0.01))
    model = checkpoints.load_srn(checkpoints.load(tmp_path / "run"))
    model.ray_marcher.initial_depth_std = 0.01
    instances = dataio.index_split(ball_split)
    batch = next(iter(dataio.ordered_batches(dataio.SceneClassDataset(instances, 16, data_util.DatasetSettings()), 2)))
    assert not torch.equal(model.train()(batch)["depth"], model(batch)["depth"])
    assert torch.equal(model.eval()(batch)["depth"], model(batch)["depth"])


def test_a_batch_of_one_image_with_classes_can_be_trained_on(ball_split, tmp_path):
    options = dict(max_num_instances_train=1, max_num_observations_train=1, batch_size_per_img_sidelength=1)
    train.main(scenes.train_options(ball_split, tmp_path, "run", **options))
    assert scalars(tmp_path / "run", "scaled_class_loss")[-1] > 0


@pytest.mark.parametrize("form, optimizer", [("srn2019", "adam"), ("semantic", "sparse_adam")])
def test_training_continues_from_a_published_file(ball_split, tmp_path, form, optimizer):
    """SRN 2019 had one Adam for the networks and the codes."""
    options = dict(class_weight=0, code_optimizer=optimizer, rgb_channels=4 if form == "semantic" else 3)
    train.main(scenes.train_options(ball_split, tmp_path, "run", **options))
    contents, _ = published.to_published(checkpoints.load(tmp_path / "run"), form)
    path = tmp_path / "epoch_0000_iter_000002.pth"
    checkpoints.save(path, contents)
    options |= dict(max_steps_per_img_sidelength=4)
    for name, checkpoint in (("ours", tmp_path / "run"), ("theirs", path)):
        train.main(scenes.train_options(ball_split, tmp_path, name, checkpoint_path=checkpoint, **options))
    ours, theirs = (checkpoints.load(tmp_path / name)["model"] for name in ("ours", "theirs"))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


# Stage 2


def test_the_unet_baseline_learns_on_rendered_images_in_train_mode(small_unets, ball_split, vanilla_run, tmp_path):
    options = dict(checkpoint_path=vanilla_run, model_type="unet", max_steps_per_img_sidelength=30, val_root=ball_split)
    train.main(scenes.train_options(ball_split, tmp_path, "run", steps_til_val=10, **options))
    checkpoint = checkpoints.load(tmp_path / "run")
    assert checkpoint["sizes"] == {"kind": "unet", "in_features": 3, "num_classes": 3}
    assert checkpoint["model"]["unet.in_layer.1.num_batches_tracked"] == 30  # validation has not changed it
    losses = scalars(tmp_path / "run", "val_class_loss")
    assert losses[-1] < losses[0]
    head = checkpoints.load_head(checkpoint, checkpoints.load_srn(checkpoints.load(vanilla_run)))
    assert head(torch.zeros(2, 256, 3)).shape == (2, 256, 3)


@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_training_of_a_head_can_be_resumed(small_unets, ball_split, vanilla_run, tmp_path, kind):
    """The U-Net drops the same channels."""
    options = dict(checkpoint_path=vanilla_run, model_type=kind)
    train.main(scenes.train_options(ball_split, tmp_path, "through", max_steps_per_img_sidelength=6, **options))
    train.main(scenes.train_options(ball_split, tmp_path, "parts", max_steps_per_img_sidelength=4, **options))
    options |= dict(linear_path=tmp_path / "parts")
    train.main(scenes.train_options(ball_split, tmp_path, "parts", max_steps_per_img_sidelength=6, **options))
    through, parts = (checkpoints.load(tmp_path / name)["model"] for name in ("through", "parts"))
    assert all(torch.equal(through[key], parts[key]) for key in through)


def test_a_head_is_validated_on_unseen_objects_with_the_codes_of_a_fit(
    refused, ball_split, vanilla_run, semantic_run, test_split, tmp_path
):
    fitting = dict(overwrite_embeddings=True, class_weight=0)
    for name, source in (("fitted", vanilla_run), ("foreign", semantic_run)):
        train.main(scenes.train_options(test_split, tmp_path, name, checkpoint_path=source, **fitting))
    options = dict(checkpoint_path=vanilla_run, model_type="linear", val_root=test_split)
    refused(scenes.train_options(ball_split, tmp_path, "head", validation=True, **options), "holds none of the instances")
    train.main(scenes.train_options(ball_split, tmp_path, "head", validation_path=tmp_path / "fitted", **options))
    assert 0 <= scalars(tmp_path / "head", "val_miou")[-1] <= 1
    arguments = scenes.train_options(ball_split, tmp_path, "head", validation_path=tmp_path / "foreign", **options)
    refused(arguments, "its networks are not those of")


def test_another_number_of_classes_than_the_list_has_is_refused(refused, ball_split, vanilla_run, tmp_path):
    options = dict(checkpoint_path=vanilla_run, model_type="linear", num_classes=7)
    refused(scenes.train_options(ball_split, tmp_path, "run", **options), "--num_classes 7")


def test_of_many_label_maps_a_random_share_of_each_is_kept(ball_split, vanilla_run, monkeypatch):
    checkpoint = checkpoints.load(vanilla_run)
    model = checkpoints.load_srn(checkpoint)
    instances = dataio.index_split(ball_split, with_labels=True)
    dataset = dataio.SceneClassDataset(instances, 16, dataio.dataset_settings(ball_split), num_classes=3)
    arguments = model, srns.LinearHead(16, 3), dataset, [0, 1], torch.device("cpu")
    features, seg_labels = head_update.read_by_head(*arguments)
    assert seg_labels.tolist() == [label for i in range(8) for label in dataset[i]["seg_labels"].tolist()]
    label_of = dict(zip(map(tuple, features.tolist()), seg_labels.tolist()))
    monkeypatch.setattr(head_update, "MAX_KEPT_NUMBERS", 8 * 50 * 16)
    some, their_labels = head_update.read_by_head(*arguments)
    assert some.shape == (400, 16) and len(their_labels.unique()) == 3
    assert [label_of[tuple(row)] for row in some.tolist()] == their_labels.tolist()


def test_a_heads_weights_can_be_held_small(ball_split, vanilla_run, tmp_path):
    options = dict(checkpoint_path=vanilla_run, model_type="linear", max_steps_per_img_sidelength=100, lr=1e-2)
    for solver in ("adam", "newton"):
        norms = []
        for penalty in (0.001, 1):
            options |= dict(head_reg_weight=penalty, update_solver=solver)
            train.main(scenes.train_options(ball_split, tmp_path, solver, **options))
            norms.append(checkpoints.load(tmp_path / solver)["model"]["linear.weight"].norm())
        assert norms[1] < norms[0] / 2
    assert scalars(tmp_path / "adam", "scaled_head_loss")[-1] > 0


# Stage 3


def without_images(split):
    for folder in split.iterdir():
        shutil.rmtree(folder / "rgb")
    return split


def test_codes_are_fitted_to_label_maps_alone_through_the_srns_own_unet(semantic_run, test_split, tmp_path):
    """The reverse mode, without images."""
    options = dict(checkpoint_path=semantic_run, overwrite_embeddings=True, l1_weight=0, specific_observation_idcs=1)
    train.main(scenes.train_options(without_images(test_split), tmp_path, "run", **options))
    before, after = checkpoints.load(semantic_run), checkpoints.load(tmp_path / "run")
    assert_only_codes_differ(before["model"], after["model"])
    assert after["observed"] == ["seg"] and after["views"] == {"ball_x": ["000001"], "ball_y": ["000001"]}
    assert "scaled_distortion_loss" not in tags(tmp_path / "run")["scalars"]


def test_codes_are_fitted_to_label_maps_alone_through_a_head(vanilla_run, linear_run, test_split, tmp_path):
    """Only the codes learn; codes and depths are regularised."""
    options = dict(checkpoint_path=vanilla_run, overwrite_embeddings=True, linear_path=linear_run, model_type="Linear")
    options |= dict(max_steps_per_img_sidelength=40, lr=3e-2, rays_per_image=128, steps_til_val=20)
    train.main(scenes.train_options(without_images(test_split), tmp_path, "run", **options))
    after = checkpoints.load(tmp_path / "run")
    assert_only_codes_differ(checkpoints.load(vanilla_run)["model"], after["model"])
    assert after["observed"] == ["seg"]
    assert {"scaled_class_loss", "scaled_latent_loss", "scaled_regularization_loss"} <= set(tags(tmp_path / "run")["scalars"])
    fresh = checkpoints.load_srn(checkpoints.load(vanilla_run))
    fitted = checkpoints.load_srn(after)
    fresh.new_codes(2, start=fresh.latent_codes.weight.detach().mean(dim=0))
    head = checkpoints.load_head(checkpoints.load(linear_run), fitted)
    losses = [class_loss(model, head, test_split) for model in (fresh, fitted)]
    assert losses[1] < losses[0]


def class_loss(model, head, split):
    instances = dataio.index_split(split, with_labels=True, with_rgb=False)
    settings = dataio.dataset_settings(split)
    batch = next(iter(dataio.ordered_batches(dataio.SceneClassDataset(instances, 16, settings, num_classes=3), 8)))
    return losses.segmentation_loss(renderer.render(model, batch, head)["seg_logits"], batch["seg_labels"]).item()


def test_a_head_of_another_kind_than_said_is_refused(refused, vanilla_run, linear_run, test_split, tmp_path):
    options = dict(checkpoint_path=vanilla_run, overwrite_embeddings=True, linear_path=linear_run, model_type="mlp")
    refused(scenes.train_options(test_split, tmp_path, "run", **options), "holds a head of kind linear")


@pytest.mark.parametrize("published_optimizer", ["sparse_adam", "adam"])
def test_fitting_can_be_resumed(vanilla_run, test_split, tmp_path, published_optimizer):
    options = dict(checkpoint_path=vanilla_run, overwrite_embeddings=True, class_weight=0)
    options |= dict(code_optimizer=published_optimizer, code_init="normal")
    train.main(scenes.train_options(test_split, tmp_path, "through", max_steps_per_img_sidelength=5, **options))
    train.main(scenes.train_options(test_split, tmp_path, "parts", max_steps_per_img_sidelength=3, **options))
    options |= dict(checkpoint_path=tmp_path / "parts", overwrite_embeddings=None, freeze_networks=True)
    train.main(scenes.train_options(test_split, tmp_path, "parts", max_steps_per_img_sidelength=5, **options))
    through, parts = (checkpoints.load(tmp_path / name) for name in ("through", "parts"))
    assert torch.equal(through["model"]["latent_codes.weight"], parts["model"]["latent_codes.weight"])
    assert parts["step"] == 5


def test_a_resumed_reverse_fit_leaves_the_head_unchanged(vanilla_run, linear_run, test_split, tmp_path, monkeypatch):
    """It gets no gradient, and it has no dropout."""
    heads, original = [], stage_data.open_head
    monkeypatch.setattr(stage_data, "open_head", lambda *arguments: heads.append(original(*arguments)) or heads[-1])
    options = dict(checkpoint_path=vanilla_run, overwrite_embeddings=True, linear_path=linear_run, model_type="linear")
    train.main(scenes.train_options(test_split, tmp_path, "run", max_steps_per_img_sidelength=2, **options))
    options |= dict(checkpoint_path=tmp_path / "run", overwrite_embeddings=None, freeze_networks=True)
    train.main(scenes.train_options(test_split, tmp_path, "run", max_steps_per_img_sidelength=4, **options))
    assert checkpoints.load(tmp_path / "run")["sizes"]["num_instances"] == 2
    assert len(heads) == 2
    for head, _ in heads:
        assert not head.training and all(parameter.grad is None for parameter in head.parameters())


def test_adam_moves_the_codes_of_a_step_that_does_not_see_them(ball_split, tmp_path):
    """As in SRN 2019; by default only the codes of the batch move."""
    moved = {}
    for optimizer in ("sparse_adam", "adam"):
        options = dict(code_optimizer=optimizer, class_weight=0, batch_size_per_img_sidelength=1, kl_weight=0)
        for steps in (3, 4):
            options |= dict(max_steps_per_img_sidelength=steps)
            train.main(scenes.train_options(ball_split, tmp_path, f"{optimizer}_{steps}", **options))
        before, after = (checkpoints.load(tmp_path / f"{optimizer}_{steps}")["model"] for steps in (3, 4))
        moved[optimizer] = (before["latent_codes.weight"] != after["latent_codes.weight"]).any(dim=1).sum().item()
    assert moved == {"sparse_adam": 1, "adam": 2}


def test_a_head_does_not_read_another_srn_than_it_learnt_on(refused, semantic_run, linear_run, test_split, tmp_path):
    options = dict(checkpoint_path=semantic_run, overwrite_embeddings=True, linear_path=linear_run)
    refused(scenes.train_options(test_split, tmp_path, "run", **options), "was learnt on the features of another SRN")


def test_a_checkpoint_without_optimizers_is_trained_on_with_fresh_ones(ball_split, vanilla_run, tmp_path, capsys):
    contents = torch.load(checkpoints.find(vanilla_run), weights_only=True)
    checkpoints.save(tmp_path / "bare.pth", {k: v for k, v in contents.items() if not k.startswith("optimizer")})
    options = dict(checkpoint_path=tmp_path / "bare.pth", class_weight=0, max_steps_per_img_sidelength=3)
    train.main(scenes.train_options(ball_split, tmp_path, "run", **options))
    assert "training goes on with a fresh one" in capsys.readouterr().out
    assert checkpoints.load(tmp_path / "run")["step"] == 3


def test_label_maps_without_a_label_are_reported(refused, ball_split, vanilla_run, tmp_path):
    split = tmp_path / "Ball" / "Ball.train"
    shutil.copytree(ball_split.parent, split.parent)
    for path in split.glob("*/seg/*.npy"):
        np.save(path, np.full((16, 16), -1))
    options = dict(checkpoint_path=vanilla_run, model_type="linear")
    refused(scenes.train_options(split, tmp_path, "run", **options), "none of the chosen label maps has a labelled pixel")


def test_vectors_of_another_size_than_in_training_are_refused(refused, split_with_params, tmp_path):
    options = dict(has_params=True, class_weight=0, embedding_size=None)
    train.main(scenes.train_options(split_with_params, tmp_path, "run", **options))
    for path in split_with_params.glob("*/params/*.txt"):
        path.write_text("1 2 3")
    options = dict(checkpoint_path=tmp_path / "run", model_type="linear", embedding_size=None)
    refused(scenes.train_options(split_with_params, tmp_path, "head", **options), "vectors of 3 numbers")


def test_an_srn_without_codes_has_none_to_fit(refused, ball_split, test_split, tmp_path):
    options = dict(fit_single_srn=True, class_weight=0, specific_ins="ball_a")
    train.main(scenes.train_options(ball_split, tmp_path, "single", **options))
    options = dict(checkpoint_path=tmp_path / "single", overwrite_embeddings=True, class_weight=0)
    refused(scenes.train_options(test_split, tmp_path, "run", **options), "no latent codes of its own")


# Resuming


def test_resuming_after_the_first_side_continues_with_the_second(ball_split, tmp_path, monkeypatch):
    """The published loop compares with == and then trains the first side forever."""
    options = dict(class_weight=0, img_sidelengths="8,16", batch_size_per_img_sidelength="2,1")
    train.main(scenes.train_options(ball_split, tmp_path, "run", max_steps_per_img_sidelength="2,2", **options))
    sides, original = [], stage_data.make_dataset
    monkeypatch.setattr(
        stage_data,
        "make_dataset",
        lambda o, d, i, side, *rest, **k: sides.append(side) or original(o, d, i, side, *rest, **k),
    )
    options |= dict(checkpoint_path=tmp_path / "run", start_step=3, max_steps_per_img_sidelength="2,4")
    train.main(scenes.train_options(ball_split, tmp_path, "run", **options))
    assert 8 not in sides and checkpoints.load(tmp_path / "run")["step"] == 6
