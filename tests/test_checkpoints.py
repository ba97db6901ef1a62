import os
import pickle

import pytest
import torch

import checkpoints
import data_util
import srns
import util

SIZES = dict(num_instances=2, latent_dim=4, hidden_features=8, tracing_steps=2)


def srn_contents(**sizes):
    torch.manual_seed(0)
    model = srns.SRN(**(SIZES | sizes))
    return {
        "model": model.state_dict(),
        "sizes": model.sizes,
        "instances": ["b", "a"],
        "step": 7,
        "settings": {"pixel_center": 0.5, "blend_alpha": True},
    }


def head_contents(kind="linear"):
    head = srns.HEADS[kind](8, 3)
    return {"model": head.state_dict(), "sizes": {"kind": kind, "in_features": 8, "num_classes": 3}}


def saved(path, contents):
    checkpoints.save(path, contents)
    return path


# Finding


def test_a_path_of_a_file_is_used_unchanged(tmp_path):
    path = saved(tmp_path / "mine.pth", {})
    assert checkpoints.find(path) == path


@pytest.mark.parametrize("inside", ["", "checkpoints"])
def test_in_a_folder_the_one_with_the_most_steps_is_taken_not_the_last_name(tmp_path, inside):
    folder = tmp_path / inside
    folder.mkdir(exist_ok=True)
    for name in (checkpoints.file_name(9, 1_000_000), checkpoints.file_name(10, 900_000), "zzz.pth"):
        saved(folder / name, {})
    assert checkpoints.find(tmp_path).name == "epoch_0009_iter_1000000.pth"


def test_a_file_half_written_when_the_computer_stopped_is_not_taken(tmp_path):
    saved(tmp_path / checkpoints.file_name(0, 5), {})
    writing = util.replacing(tmp_path / checkpoints.file_name(0, 6))
    assert writing.__enter__().exists()  # the block is never left
    assert checkpoints.find(tmp_path).name == "epoch_0000_iter_000005.pth"


def test_without_numbers_in_the_names_the_newest_is_taken(tmp_path):
    for age, name in enumerate(("b.pth", "a.pth", "c.pth")):
        os.utime(saved(tmp_path / name, {}), (10**9 - age, 10**9 - age))
    assert checkpoints.find(tmp_path).name == "b.pth"


def test_file_names_are_the_published_ones():
    assert checkpoints.file_name(26, 80_000) == "epoch_0026_iter_080000.pth"


def test_a_path_that_holds_no_checkpoint_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "absent.pth"):
        with pytest.raises(util.InputError, match=str(path)):
            checkpoints.find(path)


# Loading


def test_an_srn_comes_back_as_it_was_saved(tmp_path):
    contents = srn_contents(num_classes=3, rgb_channels=4)
    checkpoint = checkpoints.load(saved(tmp_path / "srn.pth", contents))
    model = checkpoints.load_srn(checkpoint, hidden_features=8, latent_dim=None)
    assert model.sizes == contents["sizes"] and checkpoint["step"] == 7
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, contents["model"][key]), key
    opened = checkpoints.open_srn(tmp_path / "srn.pth")
    assert opened.settings == data_util.DatasetSettings(0.5, True)
    assert opened.step == 7 and opened.instances == ["b", "a"] and opened.path == tmp_path / "srn.pth"


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_head_comes_back_as_it_was_saved(tmp_path, kind):
    contents = head_contents(kind)
    head = checkpoints.load_head(checkpoints.load(saved(tmp_path / "head.pth", contents)), srns.SRN(**SIZES))
    assert isinstance(head, srns.HEADS[kind]) and head.num_classes == 3
    for key, tensor in head.state_dict().items():
        assert torch.equal(tensor, contents["model"][key]), key


def test_an_optimizer_comes_back_with_its_state(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    weight.grad = torch.ones(3)
    optimizer.step()
    state = checkpoints.load(saved(tmp_path / "x.pth", srn_contents() | {"optimizer_0": optimizer.state_dict()}))[
        "optimizer_0"
    ]
    again = torch.optim.Adam([weight], lr=0.5)
    again.load_state_dict(state)
    assert again.param_groups[0]["lr"] == 0.1 and again.state[weight]["exp_avg"].tolist() == pytest.approx([0.1] * 3)


def test_code_hidden_in_a_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save(srn_contents() | {"extra": Trap()}, tmp_path / "trap.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Trap()))
    for name in ("trap.pth", "plain.pth"):
        with pytest.raises(util.InputError, match=f"{name}: cannot be read") as error:
            checkpoints.load(tmp_path / name)
        assert "weights_only" not in str(error.value)  # no advice to run it
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 torn"])
def test_a_file_that_cannot_be_read_is_named_in_one_line(tmp_path, content):
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(util.InputError, match="broken.pth: cannot be read") as error:
        checkpoints.load(tmp_path / "broken.pth")
    assert "\n" not in str(error.value)


def test_a_truncated_file_is_named(tmp_path):
    path = saved(tmp_path / "torn.pth", srn_contents())
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(util.InputError, match="torn.pth: cannot be read"):
        checkpoints.load(path)


@pytest.mark.parametrize("contents", [{}, [1, 2], torch.zeros(3), {"model": {}}, {"sizes": {}}, {"model": 3, "sizes": {}}])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, contents):
    with pytest.raises(util.InputError, match="other.pth: not a checkpoint"):
        checkpoints.load(saved(tmp_path / "other.pth", contents))


def load_spoilt(tmp_path, **changes):
    contents = srn_contents()
    contents["model"] |= changes
    contents["model"] = {key: tensor for key, tensor in contents["model"].items() if tensor is not None}
    return checkpoints.load_srn(checkpoints.load(saved(tmp_path / "spoilt.pth", contents)))


@pytest.mark.parametrize(
    "key, tensor, complaint",
    [
        ("ray_marcher.out_layer.bias", None, "ray_marcher.out_layer.bias is missing"),
        ("ray_marcher.extra", torch.zeros(1), "ray_marcher.extra is unexpected"),
        ("latent_codes.weight", torch.zeros(3, 4), r"latent_codes.weight is \(3, 4\), expected \(2, 4\)"),
    ],
)
def test_an_entry_that_does_not_fit_is_named(tmp_path, key, tensor, complaint):
    with pytest.raises(util.InputError, match=f"spoilt.pth: does not fit the model: {complaint}"):
        load_spoilt(tmp_path, **{key: tensor})


def test_many_faults_are_counted_not_listed(tmp_path):
    contents = srn_contents()
    contents["model"] = {}
    with pytest.raises(util.InputError, match=r"is missing and \d+ more$") as error:
        checkpoints.load_srn(checkpoints.load(saved(tmp_path / "empty.pth", contents)))
    assert str(error.value).count("is missing") == 5


def test_nothing_is_loaded_if_an_entry_does_not_fit():
    head = srns.LinearHead(8, 3)
    before = head.linear.weight.clone()
    with pytest.raises(util.InputError):
        checkpoints.load_state(head, {"linear.weight": torch.zeros(3, 8)}, "file")
    assert torch.equal(head.linear.weight, before)


def test_a_size_that_contradicts_the_option_is_named_with_both_values(tmp_path):
    checkpoint = checkpoints.load(saved(tmp_path / "srn.pth", srn_contents()))
    with pytest.raises(util.InputError, match="srn.pth: was trained with hidden_features 8, but 16 is asked for"):
        checkpoints.load_srn(checkpoint, tracing_steps=2, hidden_features=16)


def test_a_head_in_place_of_an_srn_and_the_reverse_are_named(tmp_path):
    srn = checkpoints.load(saved(tmp_path / "srn.pth", srn_contents()))
    head = checkpoints.load(saved(tmp_path / "head.pth", head_contents()))
    with pytest.raises(util.InputError, match="head.pth: holds a segmentation head, not an SRN"):
        checkpoints.load_srn(head)
    with pytest.raises(util.InputError, match="srn.pth: holds an SRN, not a segmentation head"):
        checkpoints.load_head(srn, srns.SRN(**SIZES))
    with pytest.raises(util.InputError, match="head.pth: reads 8 feature channels, but the SRN has 16"):
        checkpoints.load_head(head, srns.SRN(**SIZES | {"hidden_features": 16}))


# Codes


@pytest.mark.parametrize("names, rows", [(["a", "b"], [1, 0]), (["b"], [0]), (["a"], [1])])
def test_a_code_goes_to_the_object_of_its_name(tmp_path, names, rows):
    srn = checkpoints.open_srn(saved(tmp_path / "srn.pth", srn_contents()))
    assert srn.rows(names, "data") == rows


def test_an_object_without_a_code_does_not_get_another_code(tmp_path):
    srn = checkpoints.open_srn(saved(tmp_path / "srn.pth", srn_contents()))
    with pytest.raises(util.InputError, match="srn.pth: holds no latent code for 1 of the 2 instances in data, such as c"):
        srn.rows(["a", "c"], "data")


def test_codes_without_names_go_to_as_many_folders_and_to_no_others(tmp_path, capsys):
    """To all instances of the split, or to the chosen ones."""
    contents = {key: entry for key, entry in srn_contents().items() if key in ("model", "sizes", "settings")}
    checkpoint = contents | {"instances": None, "path": "file.pth"}
    assert checkpoints.with_names(checkpoint, ["a", "b"], "data")["instances"] == ["a", "b"]
    assert checkpoints.with_names(checkpoint, ["a", "b", "c"], "data", ["b", "c"])["instances"] == ["b", "c"]
    assert capsys.readouterr().out.count("in sorted order") == 2
    with pytest.raises(util.InputError, match="its 2 latent codes cannot be matched with the 3 instances of data"):
        checkpoints.with_names(checkpoint, ["a", "b", "c"], "data", ["a"])
