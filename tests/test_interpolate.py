import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import scenes
import torch

import checkpoints
import dataio
import geometry
import interpolate
import srns
import util
import visual
from evaluation import videos
from rendering import renderer

ROOT = Path(__file__).resolve().parent.parent
NUM_FRAMES = 5


def arguments(split, checkpoint, logging_root, **options):
    """Arguments of interpolate.main. `options` override the defaults; None omits an option."""
    options = {
        "data_root": split,
        "checkpoint_path": checkpoint,
        "logging_root": logging_root,
        "log_dir": "way",
        "device": "cpu",
        "img_sidelength": scenes.SIDE,
        "num_frames": NUM_FRAMES,
        "format": "none",
    } | options
    return scenes.as_arguments(options)


def film(*args, **options):
    """Runs interpolate.main and returns its folder."""
    given = arguments(*args, **options)
    interpolate.main(given)
    return Path(given[given.index("--logging_root") + 1]) / "way"


@pytest.fixture(scope="module")
def distinct(semantic_run, tmp_path_factory):
    """Contents of the checkpoint of `semantic_run`, with codes that give different images. Tests must not change it."""
    checkpoint = torch.load(checkpoints.find(semantic_run), weights_only=True)
    codes = 3 * torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    return checkpoint | {"model": checkpoint["model"] | {"latent_codes.weight": codes}}


@pytest.fixture
def save(tmp_path):
    def call(contents, name="srn.pth"):
        checkpoints.save(tmp_path / name, contents)
        return tmp_path / name

    return call


@pytest.fixture(scope="module")
def one_view(tmp_path_factory):
    """A split of a single view, 000000, of each ball: a camera that stands still."""
    return scenes.write_split(tmp_path_factory.mktemp("one_view") / "Ball" / "Ball.train", num_views=1)


def some_head():
    """A linear head of random weights for the tiny SRN, and the contents of its checkpoint."""
    torch.manual_seed(2)
    head = srns.LinearHead(16, 12)
    return head, {"model": head.state_dict(), "sizes": dict(kind="linear", in_features=16, num_classes=12)}


def pictures(folder, kind):
    return [iio.imread(path).astype(int) for path in sorted((folder / kind).iterdir())]


def rendered(path, split, name, pixel_center=0.5, side=scenes.SIDE, head=None):
    """Images rgb and seg of the first view of an instance, rendered with its code in the checkpoint."""
    srn = checkpoints.open_srn(path)
    model = srn.model.eval()
    instance = dataio.index_split(split, specific_ins=[name])[0]
    batch = {
        "instance_idx": torch.tensor(srn.rows([name], split)),
        "uv": geometry.pixel_grid(side, side, pixel_center)[None],
        "cam2world": torch.from_numpy(instance.poses[0])[None],
        "intrinsics": torch.from_numpy(instance.intrinsics.matrix(side))[None],
    }
    outputs = renderer.render(model, batch, head)
    seg_logits = outputs["seg_logits"][0]
    labels = seg_logits.argmax(dim=-1).view(side, side)
    return visual.to_uint8(util.as_image(outputs["rgb"])[0]), visual.label_colors(labels, seg_logits.shape[-1])


@pytest.fixture
def refused(refuses, tmp_path):
    """Asserts that interpolate.main refuses the arguments, and has made no folder."""

    def call(arguments, reason):
        refuses(interpolate.main, arguments, reason)
        assert not (tmp_path / "way").exists()

    return call


# The path of the codes


def test_the_path_starts_at_the_first_code_ends_at_the_last_and_passes_the_others():
    codes = torch.randn(3, 8)
    way = interpolate.blend(codes, 7)
    assert way.shape == (7, 8)
    assert torch.equal(way[[0, 3, 6]], codes)


def test_the_path_is_straight_and_eased():
    way = interpolate.blend(torch.tensor([[0.0, 0.0], [1.0, -64.0]]), 5)
    assert way[:, 0].tolist() == pytest.approx([0, 5 / 32, 1 / 2, 27 / 32, 1])  # 3 t^2 - 2 t^3 at quarters
    assert torch.allclose(way[:, 1], -64 * way[:, 0])


@pytest.mark.parametrize("pixel_center", [0.0, 0.5])
def test_the_ends_are_the_instances_themselves_seen_as_in_training(distinct, one_view, save, tmp_path, pixel_center):
    """dataset.json says 0.5; the model follows the half-pixel rule in its checkpoint."""
    path = save(distinct | {"settings": {"pixel_center": pixel_center, "blend_alpha": False}})
    folder = film(one_view, path, tmp_path, path="views", batch_size=2)
    rgb, seg = pictures(folder, "rgb"), pictures(folder, "seg")
    for index, name in ((0, "ball_a"), (-1, "ball_b")):
        expected_rgb, expected_seg = rendered(path, one_view, name, pixel_center)
        assert np.abs(rgb[index] - expected_rgb).max() <= 1
        assert (seg[index] == expected_seg).all(axis=-1).mean() > 0.99
    other_rule, _ = rendered(path, one_view, "ball_a", 0.5 - pixel_center)
    assert np.abs(rgb[0] - other_rule).max() > 1


def test_the_picture_changes_along_the_path_of_a_fixed_camera(distinct, one_view, save, tmp_path):
    path = save(distinct)
    rgb = pictures(film(one_view, path, tmp_path, path="views"), "rgb")
    assert len(rgb) == NUM_FRAMES
    for a in range(NUM_FRAMES):
        for b in range(a):
            assert np.abs(rgb[a] - rgb[b]).max() > 2, (a, b)


def test_instances_are_visited_in_the_order_of_the_command_line(distinct, one_view, save, tmp_path):
    path = save(distinct)
    folder = film(one_view, path, tmp_path, path="views", specific_ins="ball_b,ball_a,ball_b")
    rgb = pictures(folder, "rgb")
    for index, name in ((0, "ball_b"), (2, "ball_a"), (4, "ball_b")):
        assert np.abs(rgb[index] - rendered(path, one_view, name)[0]).max() <= 1


# The path of the camera


def options_for(*extra):
    return interpolate.read_options([*arguments("split", "srn.pth", "logs"), *extra])


def test_an_orbit_goes_round_what_the_cameras_look_at_as_far_away_and_as_high_as_asked():
    target = torch.tensor([3.0, -1.0, 2.0])
    poses = geometry.look_at(target + torch.tensor([[2.0, 0, 0], [0, 4.0, 0], [0, 1.8, 2.4]]), target)
    way = interpolate.camera_path(options_for("--elevation_deg", "30"), poses)
    offsets = way[:, :3, 3] - target
    assert torch.allclose(offsets.norm(dim=-1), torch.full((NUM_FRAMES,), 3.0), atol=1e-4)
    assert torch.allclose(offsets[:, 2], torch.full((NUM_FRAMES,), 1.5), atol=1e-4)
    seen = geometry.world_to_camera(target.expand(NUM_FRAMES, 1, 3), way)
    assert torch.allclose(seen, torch.tensor([0.0, 0, 3]).expand_as(seen), atol=1e-4)


def test_the_worlds_up_may_be_another_axis():
    poses = geometry.look_at(torch.tensor([[2.0, 0, 0], [0, 2.0, 0]]))
    way = interpolate.camera_path(options_for("--up", "y"), poses)
    height = 2 * np.sin(np.deg2rad(interpolate.ELEVATION_DEG))
    assert way[:, 1, 3].tolist() == pytest.approx([height] * NUM_FRAMES, abs=1e-4)
    assert (way[:, 1, 1] < 0).all()  # down in the image is down in the world


@pytest.mark.parametrize("num_views, expected", [(9, [0, 2, 4, 6, 8]), (5, [0, 1, 2, 3, 4]), (3, [0, 0, 1, 2, 2])])
def test_views_are_spread_over_the_frames_in_order(num_views, expected):
    poses = torch.eye(4).repeat(num_views, 1, 1)
    poses[:, 0, 3] = torch.arange(num_views)
    assert interpolate.camera_path(options_for("--path", "views"), poses)[:, 0, 3].tolist() == expected


def test_views_are_those_of_the_first_instance(distinct, save, tmp_path):
    """The second instance has different cameras."""
    split = scenes.write_split(tmp_path / "Ball" / "Ball.train", names=("ball_a",))
    scenes.write_split(split, names=("ball_b",), first_view=30)
    path = save(distinct)
    rgb = pictures(film(split, path, tmp_path, path="views", specific_ins="ball_b,ball_a"), "rgb")
    assert np.abs(rgb[0] - rendered(path, split, "ball_b")[0]).max() <= 1
    assert np.abs(rgb[0] - rendered(path, split, "ball_a")[0]).max() > 1


def test_cameras_may_come_from_a_split_of_other_objects_with_a_note(distinct, ball_split, save, tmp_path, capsys):
    others = scenes.write_split(tmp_path / "Ball" / "Ball.test", names=("ball_x", "ball_y"))
    path = save(distinct)
    rgb = pictures(film(others, path, tmp_path, path="views"), "rgb")
    assert "the cameras are those of ball_x" in capsys.readouterr().out
    assert np.abs(rgb[0] - rendered(path, ball_split, "ball_a")[0]).max() <= 1  # the same cameras there
    film(ball_split, path, tmp_path, path="views")
    assert "the cameras" not in capsys.readouterr().out


def test_poses_may_be_world_to_camera(ball_split, tmp_path):
    options = options_for("--data_root", str(ball_split), "--specific_ins", "ball_b,ball_a")
    _, expected = interpolate.read_cameras(options)
    split = scenes.write_split(tmp_path / "Ball" / "Ball.train")
    with open(split / "ball_b" / "intrinsics.txt", "a") as file:
        file.write("1\n")
    for path in (split / "ball_b" / "pose").iterdir():
        np.savetxt(path, np.linalg.inv(np.loadtxt(path)))
    options.data_root = split
    assert torch.allclose(interpolate.read_cameras(options)[1], expected, atol=1e-5)


def test_a_split_without_poses_is_refused(refused, ball_split, semantic_run, tmp_path):
    split = scenes.write_split(tmp_path / "Ball" / "Ball.train", num_views=0)
    refused(arguments(split, semantic_run, tmp_path), "ball_a: no poses; expected")


def test_images_are_not_needed(distinct, save, tmp_path):
    split = scenes.write_split(tmp_path / "Ball" / "Ball.train")
    for image in split.rglob("*.png"):
        image.unlink()
    assert len(pictures(film(split, save(distinct), tmp_path), "rgb")) == NUM_FRAMES


# What is written


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["gif", "mp4"])
def test_every_kind_of_pictures_has_a_film_of_as_many_frames(distinct, ball_split, save, tmp_path, suffix):
    if suffix == "mp4":
        pytest.importorskip("imageio_ffmpeg")
    folder = film(ball_split, save(distinct), tmp_path, format=suffix)
    kinds = ("rgb", "seg", "normals", "comparison")
    films = {f"{kind}.{suffix}" for kind in kinds}
    assert {path.name for path in folder.iterdir()} == {*kinds, *films, "params.txt", "run.json"}  # no temporary files
    factor = videos.MAX_ENLARGED_HEIGHT // scenes.SIDE
    for kind in ("rgb", "comparison"):  # after two training steps, normals and classes hardly change along the path
        frames = iio.imread(folder / f"{kind}.{suffix}", index=None, plugin=None if suffix == "gif" else "FFMPEG")
        shown = np.array([visual.enlarge(picture, factor) for picture in pictures(folder, kind)])
        assert frames.shape == shown.shape
        distance = np.abs(frames[:, None].astype(int) - shown).mean(axis=(2, 3, 4))
        assert distance.argmin(axis=1).tolist() == list(range(NUM_FRAMES)), kind  # in the order of the path
        assert distance.diagonal().max() < 4, kind


def test_the_comparison_shows_all_side_by_side(distinct, ball_split, save, tmp_path):
    folder = film(ball_split, save(distinct), tmp_path)
    rgb, seg, normals = (pictures(folder, kind)[1] for kind in ("rgb", "seg", "normals"))
    assert rgb.shape == seg.shape == normals.shape == (scenes.SIDE, scenes.SIDE, 3)
    assert np.array_equal(pictures(folder, "comparison")[1], visual.strip([rgb, seg, normals]))
    assert not list(folder.glob("*.gif")) and not list(folder.glob("*.mp4"))  # --format none


def test_a_gif_starts_again_and_keeps_the_colours_of_the_classes(tmp_path):
    labels = torch.arange(6).repeat_interleave(20).repeat(60, 1)
    shown = [visual.label_colors(labels.roll(t, dims=1), 6) for t in range(3)]
    videos.write(tmp_path / "seg.gif", iter(shown), fps=25)
    frames = iio.imread(tmp_path / "seg.gif", index=None)
    assert np.array_equal(frames, [visual.enlarge(picture, 4) for picture in shown])  # 60 high: 4 x is within 256
    about = iio.immeta(tmp_path / "seg.gif")
    assert (about["duration"], about["loop"]) == (40, 0)  # milliseconds a frame; for ever


def test_a_gif_of_equal_frames_lasts_as_long(tmp_path):
    """Pillow merges equal frames into a longer one."""
    still, other = np.zeros((256, 256, 3), np.uint8), np.full((256, 256, 3), 9, np.uint8)
    videos.write(tmp_path / "rgb.gif", iter([still, still, other, still]), fps=20)
    durations = [iio.immeta(tmp_path / "rgb.gif", index=i)["duration"] for i in range(3)]
    assert durations == [100, 50, 50]


@pytest.mark.parametrize("height, width, expected", [(16, 20, (256, 320)), (129, 131, (130, 132)), (300, 301, (300, 302))])
def test_frames_are_enlarged_by_whole_factors_to_even_sides(height, width, expected):
    picture = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    frame = videos.enlarged(picture)
    assert frame.shape == (*expected, 3)
    factor = expected[0] // height
    assert np.array_equal(frame[: height * factor : factor, : width * factor : factor], picture)
    assert (frame[height * factor :] == visual.WHITE).all() and (frame[:, width * factor :] == visual.WHITE).all()


def test_a_film_that_fails_leaves_no_file(tmp_path):
    def broken():
        yield np.zeros((64, 64, 3), np.uint8)
        raise OSError("the picture is gone")

    for suffix in ("gif", "mp4") if videos.can_write_mp4() else ("gif",):
        with pytest.raises(OSError):
            videos.write(tmp_path / f"rgb.{suffix}", broken(), fps=20)
    assert not list(tmp_path.iterdir())


def vanilla(**sizes):
    """Contents of the checkpoint of a small SRN without classes, names of instances and tracing steps."""
    torch.manual_seed(0)
    model = srns.SRN(2, latent_dim=8, hidden_features=16, **sizes)
    if model.latent_codes is not None:
        model.latent_codes.weight.data.normal_()
    return {
        "model": model.state_dict(),
        "sizes": model.sizes | {"tracing_steps": None},
        "instances": None,
        "settings": {"pixel_center": 0.0, "blend_alpha": False},
    }


def test_an_srn_without_classes_gives_no_segmentation_and_may_have_any_side(ball_split, save, tmp_path):
    folder = film(ball_split, save(vanilla()), tmp_path, img_sidelength=11)
    assert {path.name for path in folder.iterdir()} == {"rgb", "normals", "comparison", "params.txt", "run.json"}
    assert pictures(folder, "comparison")[0].shape == (11, 24, 3)


def test_a_head_takes_the_place_of_the_unet(distinct, one_view, save, tmp_path):
    head, contents = some_head()
    path = save(distinct)
    options = dict(linear_path=save(contents, "head.pth"), path="views", img_sidelength=12)  # the U-Net needs 16
    seg = pictures(film(one_view, path, tmp_path, **options), "seg")
    for index, name in ((0, "ball_a"), (-1, "ball_b")):
        expected = rendered(path, one_view, name, side=12, head=head)[1]
        assert (seg[index] == expected).all(axis=-1).mean() > 0.99


# Published checkpoints


def test_codes_without_names_belong_to_the_sorted_folders(ball_split, save, tmp_path, capsys):
    """By default the first two."""
    unnamed, named = vanilla(), vanilla() | {"instances": ["ball_a", "ball_b"]}
    folder = film(ball_split, save(unnamed), tmp_path, path="views")
    assert "does not store instance names" in capsys.readouterr().out
    assert "specific_ins: ['ball_a', 'ball_b']\n" in (folder / "params.txt").read_text()
    expected = pictures(film(ball_split, save(named), tmp_path / "named", path="views"), "rgb")
    assert all(map(np.array_equal, pictures(folder, "rgb"), expected))
    turned = film(ball_split, save(unnamed), tmp_path / "turned", path="views", specific_ins="ball_b,ball_a")
    assert not np.array_equal(pictures(turned, "rgb")[0], expected[0])


def test_tracing_steps_can_be_given_if_the_checkpoint_lacks_them(ball_split, save, tmp_path):
    path = save(vanilla())
    by_default, ten, three = (
        pictures(film(ball_split, path, tmp_path / str(steps), tracing_steps=steps), "rgb")[0] for steps in (None, 10, 3)
    )
    assert np.array_equal(by_default, ten) and not np.array_equal(by_default, three)


# What is refused


@pytest.mark.parametrize(
    "options, reason",
    [
        (dict(checkpoint_path="nowhere.pth"), "nowhere.pth: no such checkpoint"),
        (dict(checkpoint_path=None), "--checkpoint_path"),
        (dict(data_root="nowhere"), "nowhere: no such folder"),
        (dict(linear_path="head.pth"), "head.pth: no such checkpoint"),
        (dict(specific_ins="ball_a"), "two or more names"),
        (dict(specific_ins="ball_a,ball_x"), "holds no latent code for 1 of the 2 instances in --specific_ins"),
        (dict(num_frames=2, specific_ins="ball_a,ball_b,ball_a"), "--num_frames 2: expected at least 3"),
        (dict(num_frames=1), "at least 2"),
        (dict(img_sidelength=24), "needs a multiple of 16"),
        (dict(path="spiral"), "invalid choice: 'spiral'"),
        (dict(path="views", elevation_deg=0), "need --path orbit"),
        (dict(path="views", up="z"), "need --path orbit"),
        (dict(elevation_deg=90), "expected degrees from -89 to 89, found '90'"),
        (dict(elevation_deg="nan"), "expected degrees"),
        (dict(format="gif", fps=60), "--fps 60: expected at most 50"),
        (dict(tracing_steps=4), "was trained with tracing_steps 3, but 4 is asked for"),
        (dict(device="gpu"), "gpu"),
    ],
)
def test_options_that_cannot_work_are_refused(refused, ball_split, semantic_run, tmp_path, options, reason):
    refused(arguments(ball_split, semantic_run, tmp_path, **options), reason)


@pytest.mark.parametrize("sizes", [dict(fit_single_srn=True), dict(has_params=True)])
def test_a_model_without_codes_is_refused(refused, ball_split, save, tmp_path, sizes):
    given = arguments(ball_split, save(vanilla(**sizes)), tmp_path)
    refused(given, "found no latent codes")


def test_a_single_code_is_refused(refused, distinct, ball_split, save, tmp_path):
    contents = distinct | {"instances": ["ball_a"], "sizes": distinct["sizes"] | {"num_instances": 1}}
    contents["model"] = distinct["model"] | {"latent_codes.weight": torch.zeros(1, 8)}
    refused(arguments(ball_split, save(contents), tmp_path), "found one latent code")


def test_unnamed_codes_that_are_not_as_many_as_the_folders_are_refused(refused, save, tmp_path):
    split = scenes.write_split(tmp_path / "Ball" / "Ball.train", names=("ball_a", "ball_b", "ball_c"))
    refused(arguments(split, save(vanilla()), tmp_path), "its 2 latent codes cannot be matched")


def test_srn_and_head_in_the_wrong_order_are_named(refused, ball_split, semantic_run, save, tmp_path):
    path = save(some_head()[1])
    refused(arguments(ball_split, path, tmp_path), "holds a segmentation head, not an SRN")
    both = arguments(ball_split, semantic_run, tmp_path, linear_path=semantic_run)
    refused(both, "holds an SRN, not a segmentation head")


@pytest.fixture
def without_ffmpeg(monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)


def test_without_ffmpeg_mp4_is_refused_before_anything_is_read(refused, without_ffmpeg, tmp_path):
    given = arguments("nowhere", "nowhere.pth", tmp_path, format="mp4")
    refused(given, "pip install -r requirements/video.txt, or choose --format gif")


def test_without_ffmpeg_films_are_gifs_by_default(without_ffmpeg):
    assert interpolate.read_options(arguments("split", "srn.pth", "logs", format=None)).format == "gif"


def test_with_ffmpeg_films_are_mp4_by_default():
    pytest.importorskip("imageio_ffmpeg")
    assert interpolate.read_options(arguments("split", "srn.pth", "logs", format=None)).format == "mp4"


@pytest.mark.slow
def test_the_script_works_from_a_foreign_folder(distinct, save, tmp_path):
    scenes.write_split(tmp_path / "data" / "Ball" / "Ball.train", num_views=1)
    save(distinct)
    save(some_head()[1], "head.pth")
    places = {"OBJ": "Ball", "DATA": "data", "LOGS": "logs", "SRN": "srn.pth", "HEAD": "head.pth"}
    environment = os.environ | places | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    flags = ["--format", "gif", "--num_frames", "2", "--img_sidelength", "8"]
    script = [ROOT / "result_scripts" / "interpolate.sh", *flags]
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "logs" / "Ball" / "interpolation" / "seg.gif").exists()
