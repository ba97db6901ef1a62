"""This project computes the published numbers. deviations.py defines the comparisons and their limits."""

import deviations
import numpy as np
import pytest
import torch

import custom_layers
import data_util
from kernels import backends, c

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
NO_DEVICE = ("image_io",)  # files are read on the CPU


def cases():
    for fixture in deviations.FIXTURES:
        for dtype in deviations.dtypes_of(fixture):
            for device in ["cpu"] if fixture in NO_DEVICE else ["cpu", "cuda"]:
                name = "-".join([fixture, str(dtype).removeprefix("torch."), device]).replace(", ", "-").replace(" ", "_")
                is_slow = dtype == torch.float64 or fixture.startswith(("train_trace", "srn_unet"))
                marks = [NEEDS_CUDA] * (device == "cuda") + [pytest.mark.slow] * is_slow
                yield pytest.param(fixture, dtype, device, id=name, marks=marks)


@pytest.fixture(scope="module", autouse=True)
def two_threads():
    """These models are large enough to gain from two threads. Their weights are freed afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(deviations.THREADS)
    yield
    torch.set_num_threads(before)
    deviations.forget()


def beyond(found):
    """The quantities whose deviation exceeds the limit or is nan."""
    return {
        quantity: f"{deviation:.2g}, allowed {allowed:.2g}"
        for quantity, (deviation, allowed) in found.items()
        if not deviation <= allowed
    }


@pytest.mark.parametrize("fixture, dtype, device", list(cases()))
def test_our_numbers_are_the_published_ones(parity, fixture, dtype, device):
    found = deviations.measure(parity, fixture, dtype, device)
    assert found and not beyond(found)


KINK = 5  # rounding puts one unit of one of 2,048 rays on the other side of its ReLU, which changes the gradient
IN_C = ("srn_single", "srn_semantic, 1000 x loss", "train_trace, pretraining", "train_trace, latent fitting")


@pytest.mark.slow
@pytest.mark.parametrize("fixture", IN_C)
def test_the_c_code_gives_the_published_numbers(parity, fixture, monkeypatch):
    if not backends.select("auto").startswith("kernels: C"):
        pytest.skip("needs gcc or clang")
    marched, march = [], c.march
    monkeypatch.setattr(c, "march", lambda *arguments: marched.append(fixture) or march(*arguments))
    with backends.serial():
        found = deviations.measure(parity, fixture, torch.float32)
    gradients = {quantity for quantity in found if quantity.startswith("gradients")}
    found |= {quantity: (found[quantity][0], KINK * found[quantity][1]) for quantity in gradients}
    assert marched and found and not beyond(found)


def test_the_weights_are_those_the_published_programs_were_given(parity):
    for variant in ("linear_head", "mlp_head", "srn_single"):  # the large ones follow the same recipe
        arrays = {key: tensor.numpy() for key, tensor in parity.state(variant, aliases=True).items()}
        assert parity.weights.checksum(arrays) == parity.manifest["variants"][variant]["weights_crc32"]


def test_the_clamped_gradients_are_other_ones_than_a_thousand_times_the_loss_gives(parity):
    published = parity.load("srn_semantic_f64")
    lstm = np.char.startswith(published["grad_names"], "ray_marcher.lstm")
    assert (published["clamp_grad_norm"][lstm] < 900 * published["grad_norm"][lstm]).any()


# The comparisons detect faults


@pytest.mark.slow
def test_a_start_depth_that_is_off_by_a_millionth_is_found(parity, monkeypatch):
    monkeypatch.setattr(custom_layers, "INITIAL_DEPTH", custom_layers.INITIAL_DEPTH + 1e-6)
    found = deviations.measure(parity, "srn_single", torch.float64)
    assert set(beyond(found)) == set(found)


@pytest.mark.slow
def test_a_loss_without_the_published_weight_is_found(parity, monkeypatch):
    monkeypatch.setitem(deviations.WEIGHTS, "image", 200.001)
    assert set(beyond(deviations.measure(parity, "srn_single", torch.float64))) == {"losses (rel.)", "gradients (rel.)"}


def test_a_label_and_a_pixel_that_are_wrong_are_found(parity, monkeypatch):
    load_image, load_seg_labels, compose = data_util.load_image, data_util.load_seg_labels, data_util.compose

    def spoilt_image(*given):
        image, foreground = load_image(*given)
        return (compose(image) if image.dtype == np.uint8 else image) + np.float32(3e-6), foreground

    def spoilt_labels(*given):
        seg_labels = load_seg_labels(*given)
        seg_labels[0, 0] += 1
        return seg_labels

    monkeypatch.setattr(data_util, "load_image", spoilt_image)
    monkeypatch.setattr(data_util, "load_seg_labels", spoilt_labels)
    found = deviations.measure(parity, "image_io", torch.float32)
    assert found["wrong labels"][0] == 8 and set(beyond(found)) == set(found)


def test_nan_exceeds_every_limit_and_shapes_must_agree(parity):
    on = deviations.Published(parity, torch.float32)
    assert beyond({"depth": on.absolute(torch.tensor([0.0, torch.nan, 0.0]), np.zeros(3), f32=1e9)})
    with pytest.raises(AssertionError, match=r"computed \(2, 1\), published \(2,\)"):
        on.absolute(torch.zeros(2, 1), np.zeros(2))


def test_relative_deviations_are_to_the_published_number_unless_that_is_0(parity):
    on = deviations.Published(parity, torch.float64)
    assert on.relative([2.2, 50.0, 0.01], [2.0, 50.0, 0.0])[0] == pytest.approx(0.1)
