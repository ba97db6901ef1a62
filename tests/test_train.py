import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scenes
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import checkpoints
import train
from rendering import renderer
from training import head_update, objectives
from training.plan import resolve

PROGRAM = Path(train.__file__)


@pytest.fixture
def own_split(ball_split, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(ball_split.parent, tmp_path / "Ball")
    return tmp_path / "Ball" / "Ball.train"


@pytest.fixture
def refused(refuses, tmp_path):
    """Asserts that train.main refuses the arguments, and has trained nothing."""

    def call(arguments, reason):
        refuses(train.main, arguments, reason)
        assert not list(tmp_path.rglob("*.pth")) and not list(tmp_path.rglob("events.out*"))

    return call


# Invalid options are refused before any data are read: there are none here


@pytest.mark.parametrize(
    "options, reason",
    [
        (dict(img_sidelengths="64,128"), "--img_sidelengths has 2 entries, --max_steps_per_img_sidelength has 1"),
        (dict(img_sidelengths=","), "--img_sidelengths has 0 entries"),
        (dict(img_sidelengths="64;128"), "expected ints with commas"),
        (dict(max_steps_per_img_sidelength=0), "--max_steps_per_img_sidelength: expected positive integers, found 0"),
        (dict(img_sidelengths=24), "segmentation U-Net needs multiples of 16"),
        (dict(rays_per_image=10), "the segmentation U-Net needs whole images"),
        (dict(foreground_fraction=0.5, class_weight=0), "set --rays_per_image too"),
        (dict(foreground_fraction=1.5), "expected a number from 0 to 1, found '1.5'"),
        (dict(obj_name=None, class_weight=8), "labels need a class list"),
        (dict(overwrite_embeddings=True), "--overwrite_embeddings needs the SRN of stage 1"),
        (dict(model_type="linear"), "--model_type needs the SRN of stage 1"),
        (dict(model_type="linear", overwrite_embeddings=True, checkpoint_path="x"), "to fit codes through that head"),
        (dict(model_type="tree", checkpoint_path="x"), "invalid choice: 'tree'"),
        (dict(no_such_option=1), "--no_such_option"),
        (dict(linear="x", class_weight=0), "--linear"),
        (dict(tracing_steps=0), "at least 1"),
        (dict(data_root=None), "--data_root"),
        (dict(max_num_observations_train=0), "--max_num_observations_train"),
        (dict(max_num_instances_train=0), "--max_num_instances_train"),
        (dict(lr="fast"), "--lr"),
        (dict(max_num_instances_val=0), "--max_num_instances_val"),
        (dict(class_weight=-1), "--class_weight"),
        (dict(seed=-1), "--seed"),
        (dict(model_type="linear", checkpoint_path="x", class_weight=0), "--class_weight"),
        (dict(model_type="linear", checkpoint_path="x", start_step=3), "--start_step"),
    ],
)
def test_options_that_cannot_work_are_refused(refused, tmp_path, options, reason):
    refused(scenes.train_options(tmp_path / "no_data", tmp_path, "run", **options), reason)
    assert not (tmp_path / "run").exists()


def test_an_unknown_key_in_the_config_is_named(refused, tmp_path):
    (tmp_path / "config.yml").write_text("lr: 0.1\nl2_weight: 3\n")
    refused(scenes.train_options(tmp_path, tmp_path, "run", config_filepath=tmp_path / "config.yml"), "l2_weight")


@pytest.mark.parametrize("text", ["lr: [1", "just words", None])
def test_a_config_that_cannot_be_read_is_named(refused, tmp_path, text):
    if text:
        (tmp_path / "config.yml").write_text(text)
    refused(scenes.train_options(tmp_path, tmp_path, "run", config_filepath=tmp_path / "config.yml"), "config.yml")


def test_the_command_line_wins_over_the_config(tmp_path):
    (tmp_path / "config.yml").write_text("lr: 0.1\nclass_weight: 0\nimg_sidelengths: 8,32\n")
    arguments = ["-c", str(tmp_path / "config.yml"), "--data_root", "x", "--log_dir", "y", "--lr", "0.5"]
    arguments += ["--max_steps_per_img_sidelength", "1,2", "--batch_size_per_img_sidelength", "3,4"]
    options = train.read_options(arguments)
    assert (options.lr, options.class_weight, options.img_sidelengths) == (0.5, 0, [8, 32])
    assert resolve(options).schedule.parts() == [(8, 3, 0, 1), (32, 4, 1, 3)]


PUBLISHED_CONFIG = """
data_root: /data/Chair/Chair.train
val_root: /data/Chair/Chair.val
logging_root: ./logs
obj_name: Chair
img_sidelengths: 64,128
max_steps_per_img_sidelength: 5000,150000
batch_size_per_img_sidelength: 4,8
lr: 4e-4
class_weight: 8
l1_weight: 200
kl_weight: 1
reg_weight: 1e-3
steps_til_ckpt: 5000
steps_til_val: 1000
validation: False
no_validation: True
preload: True
checkpoint_path: null
overwrite_embeddings: False
start_step: 0
specific_observation_idcs: null
max_num_instances_train: -1
max_num_observations_train: 50
max_num_instances_val: 10
max_num_observations_val: 10
has_params: False
fit_single_srn: False
use_unet_renderer: False
freeze_networks: False
tracing_steps: 10
embedding_size: 256
"""


def test_a_config_with_every_published_flag_is_understood(tmp_path):
    (tmp_path / "config.yml").write_text(PUBLISHED_CONFIG)
    options = train.read_options(["-c", str(tmp_path / "config.yml")])
    assert resolve(options).schedule.parts() == [(64, 4, 0, 5000), (128, 8, 5000, 155_000)]
    assert options.preload and options.validation is False and options.checkpoint_path is None
    assert not (options.has_params or options.fit_single_srn or options.freeze_networks or options.overwrite_embeddings)
    update = "model_type: linear\nlinear_path: null\nnum_classes: 6\nvalidation_path: null\nspecific_ins: [a, b]\n"
    (tmp_path / "config.yml").write_text(PUBLISHED_CONFIG.replace("checkpoint_path: null", "checkpoint_path: x") + update)
    options = train.read_options(["-c", str(tmp_path / "config.yml")])
    assert (options.model_type, options.specific_ins, options.num_classes) == ("linear", ["a", "b"], 6)


def test_a_published_config_of_2019_is_one_without_labels(tmp_path, capsys):
    later = ("class_weight", "obj_name", "validation")
    lines = [line for line in PUBLISHED_CONFIG.splitlines() if not line.startswith(later)]
    (tmp_path / "config.yml").write_text("\n".join(lines))
    options = train.read_options(["-c", str(tmp_path / "config.yml")])
    assert options.class_weight == 0 and "no labels are read" in capsys.readouterr().out


def test_defaults_are_the_published_ones():
    options = train.read_options(["--data_root", "x", "--log_dir", "y", "--obj_name", "Chair"])
    assert resolve(options).schedule.parts() == [(64, 92, 0, 10_000), (128, 16, 10_000, 210_000)]
    assert (options.lr, options.l1_weight, options.class_weight) == (4e-4, 200, 8)
    assert (options.kl_weight, options.reg_weight) == (1, 1e-3)


# Data and checkpoints that cannot be used


def remove_class_list(split):
    (split.parent / "Ball-level-1.txt").unlink()


def cut_an_image(split):
    path = split / "ball_b" / "rgb" / "000001.png"
    path.write_bytes(path.read_bytes()[:-20])


def spoil_an_image(split):
    """Start and end of the file are valid, so that only decoding finds the fault."""
    path = split / "ball_b" / "rgb" / "000001.png"
    content = path.read_bytes()
    path.write_bytes(content[:60] + b"spoilt" + content[66:])


def label_beyond_the_list(split):
    np.save(split / "ball_b" / "seg" / "000001.npy", np.full((16, 16), 9))


BAD_DATA = {
    "missing": (shutil.rmtree, {}, "Ball.train: no such folder"),
    "empty": (lambda split: [shutil.rmtree(path) for path in split.iterdir()], {}, "Ball.train: no instance folders"),
    "no class list": (remove_class_list, {}, "Ball-level-1.txt: cannot be read as a class list ("),
    "a pose too few": (lambda split: (split / "ball_b/pose/000001.txt").unlink(), {}, "4 images but 3 poses"),
    "a torn image": (cut_an_image, {}, "000001.png: the PNG is cut short"),
    "a view that is not there": (lambda split: None, {"specific_observation_idcs": "0,4"}, "there is no 4"),
    "an unknown instance": (lambda split: None, {"specific_ins": "ball_z"}, "no instance named ball_z"),
}


@pytest.mark.parametrize("fault", BAD_DATA)
def test_data_that_cannot_be_used_are_named(refused, own_split, tmp_path, fault):
    spoil, options, reason = BAD_DATA[fault]
    spoil(own_split)
    refused(scenes.train_options(own_split, tmp_path, "run", **options), reason)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    "spoil, reason",
    [(spoil_an_image, "000001.png: cannot be read as an image"), (label_beyond_the_list, "000001.npy: labels from 9 to 9")],
)
def test_a_fault_found_while_reading_ends_the_run_in_one_line(own_split, tmp_path, capsys, num_workers, spoil, reason):
    spoil(own_split)
    with pytest.raises(SystemExit) as stopped:
        train.main(scenes.train_options(own_split, tmp_path, "run", max_steps_per_img_sidelength=4, num_workers=num_workers))
    written = capsys.readouterr().err
    assert stopped.value.code == 2 and reason in written.splitlines()[-1] and "Traceback" not in written


def test_a_validation_split_of_other_objects_is_refused(refused, own_split, tmp_path):
    other = scenes.write_split(tmp_path / "Ball" / "Ball.val", names=("ball_x",))
    refused(scenes.train_options(own_split, tmp_path, "run", val_root=other, validation=True), "holds none of the instances")


def test_a_split_of_other_objects_is_not_validated_on_unless_asked_for(ball_split, tmp_path, capsys):
    """Published configs name such a split, but the published program does not validate by default."""
    other = scenes.write_split(tmp_path / "Ball" / "Ball.val", names=("ball_x",))
    train.main(scenes.train_options(ball_split, tmp_path, "run", class_weight=0, val_root=other))
    assert "so nothing is validated" in capsys.readouterr().out
    assert "val_psnr" not in event_tags(tmp_path / "run")["scalars"]


@pytest.mark.parametrize(
    "options, reason",
    [
        (dict(hidden_features=32), "was trained with hidden_features 16, but 32 is asked for"),
        (dict(embedding_size=9), "was trained with latent_dim 8, but 9 is asked for"),
        (dict(specific_ins="ball_a"), "was trained on other instances"),
        (dict(checkpoint_path="nowhere.pth"), "nowhere.pth: no such checkpoint"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named(refused, ball_split, semantic_run, tmp_path, options, reason):
    refused(scenes.train_options(ball_split, tmp_path, "run", **{"checkpoint_path": semantic_run, **options}), reason)


def test_another_class_list_than_the_checkpoints_is_refused(refused, own_split, semantic_run, tmp_path):
    with open(own_split.parent / "Ball-level-1.txt", "a") as file:
        file.write("3 handle\n")
    refused(scenes.train_options(own_split, tmp_path, "run", checkpoint_path=semantic_run), "class")


def test_cuda_where_there_is_none_is_refused(refused, ball_split, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(scenes.train_options(ball_split, tmp_path, "run", device="cuda"), "--device cuda")


def test_a_run_folder_that_cannot_be_made_is_named(refused, ball_split, tmp_path):
    (tmp_path / "file").write_text("")
    refused(scenes.train_options(ball_split, tmp_path / "file", "run"), "--logging_root, --log_dir")


@pytest.mark.slow
def test_a_command_line_error_is_one_line_and_exit_code_2(tmp_path):
    arguments = scenes.train_options(tmp_path / "Ball.train", tmp_path / "logs", "run", class_weight=0)
    done = subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True, cwd=tmp_path)
    expected = f"train.py: error: {tmp_path}/Ball.train: no such folder; expected a split such as Chair/Chair.train\n"
    assert (done.returncode, done.stderr) == (2, expected) and "Traceback" not in done.stdout


# Stage 1


def event_tags(folder):
    events = EventAccumulator(str(folder / "events"))
    events.Reload()
    return {kind: set(events.Tags()[kind]) for kind in ("scalars", "images", "histograms")}


PICTURES = {"Output_vs_gt", "Output_vs_gt_seg", "rgb_error_fig", "pred_depth", "normals", "raycast_progress"}


def test_a_run_logs_what_the_published_program_logs(ball_split, tmp_path):
    """Validation uses other views of the trained objects, in another order and number."""
    val = scenes.write_split(tmp_path / "Ball" / "Ball.train_val", names=("ball_b", "ball_x"), num_views=2, first_view=20)
    train.main(scenes.train_options(ball_split, tmp_path, "run", val_root=val))
    tags = event_tags(tmp_path / "run")
    assert tags["scalars"] == {
        "scaled_distortion_loss",
        "scaled_class_loss",
        "scaled_regularization_loss",
        "scaled_latent_loss",
        "total_loss",
        "val_dist_loss",
        "val_class_loss",
        "val_psnr",
        "val_ssim",
        "val_miou",
        "embed_min",
        "embed_max",
    }
    assert tags["images"] == PICTURES | {f"val_{name}" for name in PICTURES}
    assert tags["histograms"] == {"stopping_distances", "val_stopping_distances"}
    projector = (tmp_path / "run" / "events" / "projector_config.pbtxt").read_text()
    assert "latent_codes" in projector
    assert next((tmp_path / "run").rglob("metadata.tsv")).read_text().split() == ["ball_a", "ball_b"]


def test_a_vanilla_srn_needs_neither_labels_nor_a_class_list(own_split, tmp_path):
    remove_class_list(own_split)
    for name in ("ball_a", "ball_b"):
        shutil.rmtree(own_split / name / "seg")
    train.main(scenes.train_options(own_split, tmp_path, "run", class_weight=0, obj_name=None))
    checkpoint = checkpoints.load(tmp_path / "run")
    assert checkpoint["sizes"]["num_classes"] is None
    assert "scaled_class_loss" not in event_tags(tmp_path / "run")["scalars"]


def test_a_checkpoint_says_what_it_was_trained_on_and_how(semantic_run):
    checkpoint = checkpoints.load(semantic_run)
    assert checkpoint["path"].name == "epoch_0000_iter_000002.pth" and checkpoint["step"] == 2
    assert checkpoint["instances"] == ["ball_a", "ball_b"] and checkpoint["split"] == "Ball.train"
    assert checkpoint["views"]["ball_b"] == ["000000", "000001", "000002", "000003"]
    assert checkpoint["settings"] == {"pixel_center": 0.5, "blend_alpha": False}
    assert checkpoint["sizes"] == dict(
        num_instances=2,
        latent_dim=8,
        hidden_features=16,
        tracing_steps=3,
        rgb_channels=3,
        num_classes=3,
        fit_single_srn=False,
        has_params=False,
        use_unet_renderer=False,
        positional_encoding=0,
        scene_radius=1.0,
    )
    codes, networks = (checkpoint[f"optimizer_{i}"]["param_groups"][0] for i in (0, 1))
    assert (codes["lr"], codes["betas"], codes["eps"], len(codes["params"])) == (4e-4, (0.5, 0.5), 1e-5, 1)
    assert (networks["lr"], networks["betas"], networks["eps"]) == (4e-4, (0.9, 0.999), 1e-8)
    assert len(networks["params"]) == sum(1 for _ in checkpoints.load_srn(checkpoint).networks())


def test_the_weights_of_the_loss_terms_are_applied():
    options = train.read_options(
        ["--data_root", "x", "--log_dir", "y", "--obj_name", "z"]
        + "--l1_weight 2 --reg_weight 3 --kl_weight 5 --class_weight 7".split()
    )
    outputs = {
        "rgb": torch.zeros(1, 4, 3),
        "depth": torch.full((1, 4, 1), -0.1),
        "z": torch.full((1, 2), 2.0),
        "seg_logits": torch.zeros(1, 4, 2),
    }
    batch = {"rgb": torch.cat([torch.ones(1, 4, 3), torch.full((1, 4, 1), 9.0)], -1), "seg_labels": torch.zeros(1, 4).long()}
    weights = resolve(options).weights
    terms = {name: term.item() for name, term in objectives.srn_terms(weights, outputs, batch).items()}
    expected = {"distortion": 2, "regularization": 3 * 100, "latent": 5 * 4, "class": 7 * np.log(2)}
    assert terms == pytest.approx(expected)


def test_the_same_seed_trains_the_same_model_and_another_one_another(ball_split, tmp_path):
    options = dict(class_weight=0, max_steps_per_img_sidelength=1, rays_per_image=20)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train.main(scenes.train_options(ball_split, tmp_path, name, seed=seed, **options))
    a, b, c = (checkpoints.load(tmp_path / name)["model"]["latent_codes.weight"] for name in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_number_of_images_of_a_batch_may_exceed_the_data(ball_split, tmp_path):
    options = dict(class_weight=0, batch_size_per_img_sidelength=12, max_num_instances_train=1, max_num_observations_train=1)
    train.main(scenes.train_options(ball_split, tmp_path, "run", **options))
    assert checkpoints.load(tmp_path / "run")["views"] == {"ball_a": ["000000"]}


@pytest.mark.slow
def test_a_trained_model_predicts_more_than_the_mean_colour(ball_split, tmp_path):
    options = dict(class_weight=0, rays_per_image=64, lr=1e-2, val_root=ball_split)
    options |= dict(max_steps_per_img_sidelength=80, batch_size_per_img_sidelength=8)
    train.main(scenes.train_options(ball_split, tmp_path, "run", **options))
    events = EventAccumulator(str(tmp_path / "run" / "events"))
    events.Reload()
    images = [scenes.composed_image(path)[0][..., :3] for path in sorted(ball_split.glob("*/rgb/*.png"))]
    mean_colour = [10 * np.log10(4 / image.var(axis=(0, 1)).mean()) for image in images]
    assert events.Scalars("val_psnr")[-1].value > np.mean(mean_colour) + 2


def test_validation_renders_each_object_with_its_own_code_in_eval_mode(ball_split, tmp_path, monkeypatch):
    """ball_b is row 1 of the latent table, although it is the only object of the validation split."""
    seen, original = [], renderer.render

    def recording(model, batch, **options):
        seen.append((model.training, batch["instance_idx"].tolist()))
        return original(model, batch, **options)

    monkeypatch.setattr(renderer, "render", recording)
    val = scenes.write_split(tmp_path / "Ball" / "Ball.train_val", names=("ball_b",), num_views=2)
    train.main(scenes.train_options(ball_split, tmp_path, "run", val_root=val))
    assert [rows for _, rows in seen if len(rows) == 2] == [[1, 1]] * 2  # the scores, the images
    assert not any(training for training, _ in seen)


@pytest.mark.slow
def test_validation_does_not_change_training(ball_split, tmp_path):
    for name, interval in (("watched", 1), ("alone", 100)):
        options = dict(steps_til_val=interval, max_steps_per_img_sidelength=3, val_root=ball_split)
        train.main(scenes.train_options(ball_split, tmp_path, name, **options))
    watched, alone = (checkpoints.load(tmp_path / name)["model"] for name in ("watched", "alone"))
    assert all(torch.equal(watched[name], alone[name]) for name in alone)


# Stage 3


def assert_networks_are_untouched(before, after):
    """Asserts that all tensors except the codes are equal bit for bit, BatchNorm's running statistics included."""
    assert before.keys() == after.keys() and any("running_mean" in name for name in before)
    for name in before:
        if name != "latent_codes.weight":
            assert torch.equal(before[name], after[name]), name


@pytest.mark.parametrize("class_weight", [0, 8], ids=["from images", "from images and labels"])
def test_fitting_codes_moves_nothing_but_codes(ball_split, semantic_run, tmp_path, class_weight):
    new = scenes.write_split(tmp_path / "Ball" / "Ball.test", names=("ball_x", "ball_y", "ball_z"))
    options = dict(checkpoint_path=semantic_run, overwrite_embeddings=True, specific_observation_idcs="1,3")
    train.main(scenes.train_options(new, tmp_path, "fitted", class_weight=class_weight, **options))
    before, after = checkpoints.load(semantic_run), checkpoints.load(tmp_path / "fitted")
    assert_networks_are_untouched(before["model"], after["model"])
    assert after["instances"] == ["ball_x", "ball_y", "ball_z"] and after["step"] == 2
    assert after["views"]["ball_x"] == ["000001", "000003"] and after["split"] == "Ball.test"
    assert after["sizes"] == before["sizes"] | {"num_instances": 3}
    assert "optimizer_1" not in after


@pytest.mark.parametrize("code_init, near", [("mean", 5.0), ("normal", 0.0)])
def test_new_codes_start_near_the_mean_or_near_zero(ball_split, semantic_run, tmp_path, code_init, near):
    checkpoint = torch.load(checkpoints.find(semantic_run), weights_only=True)
    checkpoint["model"]["latent_codes.weight"] = torch.tensor([[4.0], [6.0]]).expand(2, 8).clone()
    checkpoints.save(tmp_path / "far.pth", checkpoint)
    options = dict(
        checkpoint_path=tmp_path / "far.pth",
        overwrite_embeddings=True,
        code_init=code_init,
        class_weight=0,
        num_starts=1,
        code_step=0,
    )
    train.main(scenes.train_options(ball_split, tmp_path, "fitted", **options))
    codes = checkpoints.load(tmp_path / "fitted")["model"]["latent_codes.weight"]
    assert codes.mean().item() == pytest.approx(near, abs=0.05)


@pytest.mark.parametrize("stage", [dict(overwrite_embeddings=True, class_weight=0), dict(model_type="linear")])
def test_without_the_unet_the_image_may_have_any_side(ball_split, semantic_run, tmp_path, stage):
    train.main(scenes.train_options(ball_split, tmp_path, "run", checkpoint_path=semantic_run, img_sidelengths=12, **stage))
    assert checkpoints.load(tmp_path / "run")["step"] >= 1


def test_sizes_come_from_the_checkpoint_when_none_are_given(ball_split, semantic_run, tmp_path):
    options = dict(checkpoint_path=semantic_run, overwrite_embeddings=True, class_weight=0)
    options |= dict(embedding_size=None, hidden_features=None, tracing_steps=None, max_steps_per_img_sidelength=1)
    train.main(scenes.train_options(ball_split, tmp_path, "fitted", **options))
    assert checkpoints.load(tmp_path / "fitted")["sizes"]["hidden_features"] == 16


def test_stage_1_refuses_a_checkpoint_of_fitted_codes(refused, ball_split, semantic_run, tmp_path):
    """It has no state of the networks' optimizer, so stage 1 cannot continue from it."""
    fitted = torch.load(checkpoints.find(semantic_run), weights_only=True)
    del fitted["optimizer_1"]
    path = tmp_path / "elsewhere" / "fitted.pt"  # not .pth, since `refused` asserts that there is no .pth file
    path.parent.mkdir()
    checkpoints.save(path, fitted)
    refused(scenes.train_options(ball_split, tmp_path, "run", checkpoint_path=path), "fitted.pt")


# Stage 2


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_head_learns_on_a_frozen_srn(ball_split, semantic_run, tmp_path, kind):
    options = dict(checkpoint_path=semantic_run, model_type=kind, max_steps_per_img_sidelength=80, lr=1e-2)
    options |= dict(specific_ins="ball_b", specific_observation_idcs="0,1", rays_per_image=64, update_solver="adam")
    train.main(scenes.train_options(ball_split, tmp_path, "head", **options))
    head = checkpoints.load(tmp_path / "head")
    assert head["sizes"] == {"kind": kind, "in_features": 16, "num_classes": 3} and head["step"] == 80
    assert head["instances"] == ["ball_b"] and head["views"] == {"ball_b": ["000000", "000001"]}
    events = EventAccumulator(str(tmp_path / "head" / "events"))
    events.Reload()
    final = events.Scalars("scaled_class_loss")[-1].value
    labels = np.concatenate([np.load(ball_split / "ball_b" / "seg" / f"00000{view}.npy").ravel() for view in (0, 1)])
    shares = np.bincount(labels) / len(labels)
    assert (
        final < 8 * -(shares * np.log(shares)).sum()
    )  # better than predicting the share of each class, which needs no features
    assert "val_psnr" not in events.Tags()["scalars"]


def test_a_head_reads_the_codes_of_its_instances_by_name(ball_split, semantic_run, tmp_path, monkeypatch):
    """ball_b is row 1 of the checkpoint's table, although it is the only instance here."""
    rows = []
    original = head_update.read_by_head
    monkeypatch.setattr(head_update, "read_by_head", lambda m, k, d, r, dev: rows.append(r) or original(m, k, d, r, dev))
    options = dict(checkpoint_path=semantic_run, model_type="linear", specific_ins="ball_b", rays_per_image=8)
    train.main(scenes.train_options(ball_split, tmp_path, "head", **options))
    assert rows == [[1]]


def test_a_head_on_objects_without_codes_is_refused(refused, semantic_run, tmp_path):
    new = scenes.write_split(tmp_path / "Ball" / "Ball.test", names=("ball_x",))
    options = dict(checkpoint_path=semantic_run, model_type="linear")
    refused(scenes.train_options(new, tmp_path, "head", **options), "holds no latent code for 1 of the 1 instances")
