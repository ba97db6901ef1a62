"""convert_checkpoint.py: files of any form become files of any other."""

import pytest
import scenes
import torch

import checkpoints
import convert_checkpoint
import published
import srns
import train

TINY = dict(num_instances=2, latent_dim=4, hidden_features=8, tracing_steps=3, rgb_channels=4, num_classes=3)


@pytest.fixture
def ours(tmp_path):
    """A file of ours with a tiny semantic SRN."""
    torch.manual_seed(0)
    model = srns.SRN(**TINY)
    contents = {
        "model": model.state_dict(),
        "sizes": model.sizes,
        "step": 7,
        "settings": dict(published.SETTINGS),
        "instances": ["a", "b"],
        "split": "Ball.train",
        "views": {"a": ["000000"]},
        "observed": ["rgb"],
    }
    checkpoints.save(tmp_path / "ours.pth", contents)
    return tmp_path / "ours.pth"


@pytest.fixture
def semantic(ours):
    """The same in the form of the semantic program."""
    path = ours.with_name("semantic.pth")
    convert(ours, path, "semantic")
    return path


@pytest.fixture
def head(tmp_path):
    """A file of ours with a linear head."""
    sizes = dict(kind="linear", in_features=8, num_classes=3)
    checkpoints.save(tmp_path / "head.pth", {"model": srns.LinearHead(8, 3).state_dict(), "sizes": sizes})
    return tmp_path / "head.pth"


def convert(source, target, form, *flags):
    convert_checkpoint.main([str(source), str(target), "--form", form, *map(str, flags)])


def refused(capsys, *arguments):
    """The one line in which a conversion is refused."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as error:
        convert(*arguments)
    assert error.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def written(path):
    return torch.load(path, weights_only=True)


def test_a_published_file_becomes_ours_with_names_and_steps_and_the_same_weights(ours, semantic, tmp_path):
    (tmp_path / "names.txt").write_text("zebra\n\n  ant \n")
    target = tmp_path / "new folder" / "again.pth"
    convert(semantic, target, "ours", "--instances", tmp_path / "names.txt", "--tracing_steps", 3)
    first, again = written(ours), written(target)
    assert again["sizes"] == first["sizes"] and again["instances"] == ["zebra", "ant"]
    assert all(torch.equal(again["model"][name], tensor) for name, tensor in first["model"].items())
    assert checkpoints.open_srn(target).rows(["ant"], "data") == [1]


def test_without_a_word_the_marcher_takes_the_published_number_of_steps(semantic, tmp_path):
    convert(semantic, tmp_path / "again.pth", "ours")
    assert written(tmp_path / "again.pth")["sizes"]["tracing_steps"] == 10


def test_names_are_taken_from_a_split_folder(semantic, ball_split, tmp_path):
    convert(semantic, tmp_path / "again.pth", "ours", "--instances", ball_split)
    assert written(tmp_path / "again.pth")["instances"] == ["ball_a", "ball_b"]


def test_between_the_published_forms(semantic, tmp_path, capsys):
    convert(semantic, tmp_path / "2019.pth", "srn2019")
    contents = written(tmp_path / "2019.pth")
    assert list(contents) == ["model"] and contents["model"]["pixel_generator.net.5.bias"].shape == (3,)
    assert not any("slave_params" in key for key in contents["model"])
    assert "left out: nothing" in capsys.readouterr().out


def test_what_is_written_and_what_is_lost_is_told(ours, tmp_path, capsys):
    target = tmp_path / "theirs.pth"
    convert(ours, target, "semantic")
    *notes, line = capsys.readouterr().out.splitlines()
    assert line == (
        f"wrote {target}, form semantic: SRN with 2 codes of 4, 8 features, 3 classes; "
        f"left out: instances, split, views, observed"
    )
    assert all(note.startswith("note: ") for note in notes)
    assert any("--tracing_steps 3" in note for note in notes)
    assert any("epoch_0000_iter_000007.pth" in note for note in notes)


def test_a_file_name_with_the_step_keeps_it(ours, tmp_path, capsys):
    target = tmp_path / "epoch_0001_iter_000007.pth"
    convert(ours, target, "semantic")
    assert "step is lost" not in capsys.readouterr().out
    assert checkpoints.load(target)["step"] == 7


def test_a_head_is_converted(head, tmp_path, capsys):
    convert(head, tmp_path / "theirs.pth", "semantic")
    assert "linear head from 8 channels to 3 classes" in capsys.readouterr().out
    assert list(written(tmp_path / "theirs.pth")["model"]) == ["linear.weight", "linear.bias"]
    assert "2019" in refused(capsys, head, tmp_path / "2019.pth", "srn2019")


def test_what_the_published_programs_do_not_have_is_refused(ball_split, tmp_path, refuses):
    options = dict(class_weight=0, positional_encoding=2)
    train.main(scenes.train_options(ball_split, tmp_path, "srn", **options))
    options = dict(checkpoint_path=tmp_path / "srn", model_type="linear", head_features="all")
    train.main(scenes.train_options(ball_split, tmp_path, "head", **options))
    for name, reason in (("srn", "has a positional encoding"), ("head", "reads all layers of phi")):
        arguments = [str(tmp_path / name), str(tmp_path / "out.pth"), "--form", "semantic"]
        refuses(convert_checkpoint.main, arguments, reason)


@pytest.mark.slow
@pytest.mark.parametrize("form", published.FORMS)
def test_training_resumed_from_a_published_file_gives_the_same_numbers(ball_split, tmp_path, form):
    sizes = dict(rgb_channels=4) if form == "semantic" else dict(rgb_channels=3, class_weight=0)

    def train_on(log_dir, **options):
        train.main(scenes.train_options(ball_split, tmp_path, log_dir, **sizes, **options))
        return checkpoints.load(tmp_path / log_dir)

    train_on("ours")
    convert(tmp_path / "ours", tmp_path / "epoch_0000_iter_000002.pth", form)
    expected = train_on("on_from_ours", checkpoint_path=tmp_path / "ours", max_steps_per_img_sidelength=3)
    found = train_on("on", checkpoint_path=tmp_path / "epoch_0000_iter_000002.pth", max_steps_per_img_sidelength=3)
    assert found["step"] == 3 and found["instances"] == ["ball_a", "ball_b"]
    for name, tensor in expected["model"].items():
        assert torch.equal(found["model"][name], tensor), name


# Refusals


def test_an_existing_file_is_replaced_only_if_asked(ours, semantic, capsys):
    before = semantic.read_bytes()
    assert f"{semantic}: exists" in refused(capsys, ours, semantic, "ours")
    assert semantic.read_bytes() == before
    convert(ours, semantic, "ours", "--overwrite")
    assert written(semantic)["instances"] == ["a", "b"]


@pytest.mark.parametrize("names, words", [("a", "1 names"), ("a b c", "3 names"), ("a a", "found a more than once")])
def test_names_must_be_one_for_each_code(semantic, tmp_path, capsys, names, words):
    (tmp_path / "names.txt").write_text(names.replace(" ", "\n"))
    flags = "--instances", tmp_path / "names.txt"
    assert words in refused(capsys, semantic, tmp_path / "again.pth", "ours", *flags)
    assert not (tmp_path / "again.pth").exists()


def test_names_that_cannot_be_read_or_are_not_wanted_are_refused(ours, semantic, head, tmp_path, capsys):
    target = tmp_path / "again.pth"
    assert "absent.txt" in refused(capsys, semantic, target, "ours", "--instances", tmp_path / "absent.txt")
    assert "expected a text file" in refused(capsys, semantic, target, "ours", "--instances", semantic)
    (tmp_path / "names.txt").write_text("b\na\n")
    assert "stores other names" in refused(capsys, ours, target, "ours", "--instances", tmp_path / "names.txt")
    assert "0 latent codes" in refused(capsys, head, target, "ours", "--instances", tmp_path / "names.txt")


@pytest.mark.parametrize("flags", [("--tracing_steps", 3), ("--instances", "names.txt")])
def test_what_a_published_form_has_no_place_for_is_refused(ours, tmp_path, capsys, flags):
    assert flags[0] in refused(capsys, ours, tmp_path / "theirs.pth", "semantic", *flags)


def test_other_tracing_steps_than_trained_with_are_refused(ours, head, tmp_path, capsys):
    target = tmp_path / "again.pth"
    assert "trained with tracing_steps 3" in refused(capsys, ours, target, "ours", "--tracing_steps", 4)
    assert "expected an integer of at least 1" in refused(capsys, ours, target, "ours", "--tracing_steps", 0)
    assert "head" in refused(capsys, head, target, "ours", "--tracing_steps", 3)


@pytest.mark.parametrize("form", ["ours", *published.FORMS])
def test_a_file_with_an_entry_missing_is_not_converted(ours, head, tmp_path, capsys, form):
    for path, name in ((ours, "pixel_generator.net.5.bias"), (head, "linear.bias")):
        contents = written(path)
        del contents["model"][name]
        torch.save(contents, path)
        assert f"{name} is missing" in refused(capsys, path, tmp_path / "again.pth", form)
        assert not (tmp_path / "again.pth").exists()


def test_a_target_that_cannot_be_written_is_named(ours, tmp_path, capsys):
    assert "cannot write it" in refused(capsys, ours, ours / "inside.pth", "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours.pth"]


def test_a_source_that_is_no_checkpoint_is_named(tmp_path, capsys):
    (tmp_path / "other.pth").write_bytes(b"no checkpoint")
    assert "other.pth: cannot be read" in refused(capsys, tmp_path / "other.pth", tmp_path / "again.pth", "ours")
