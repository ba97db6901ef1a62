import pytest
import torch

import unet

VARIANTS = {  # of the manifest: the prefix of its U-Net's keys, and that U-Net's sizes
    "unet_seg": ("unet.", dict(in_channels=4, out_channels=7, num_down=7, dropout=0.2)),
    "srn_semantic": ("class_generator.", dict(in_channels=256, out_channels=7, num_down=4, max_channels=128)),
    "srn_unet_renderer": (
        "pixel_generator.net.0.",
        dict(in_channels=256, out_channels=3, num_down=7, base_channels=32, max_channels=256, dropout=0.2),
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_dict_has_the_published_keys_and_shapes(parity, variant):
    prefix, sizes = VARIANTS[variant]
    with torch.device("meta"):
        state = unet.UNet(**sizes).state_dict()
    entries = parity.manifest["variants"][variant]["state_dict"]
    published = {
        entry["key"].removeprefix(prefix): tuple(entry["shape"])
        for entry in entries
        if entry["key"].startswith(prefix) and not entry.get("alias_of")
    }
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == published


@pytest.mark.parametrize("height, width", [(4, 4), (8, 20)])
def test_output_has_the_size_of_an_image_that_need_not_be_square(height, width):
    net = unet.UNet(5, 3, num_down=2, base_channels=4, max_channels=6)
    assert net(torch.randn(1, 5, height, width)).shape == (1, 3, height, width)


@pytest.mark.parametrize("height, width", [(16, 18), (12, 16), (4, 8)])
def test_a_size_that_cannot_be_halved_is_an_error_that_says_so(height, width):
    net = unet.UNet(2, 2, num_down=3, base_channels=2)
    with pytest.raises(ValueError, match=f"multiples of 8, got {height} x {width}"):
        net(torch.randn(1, 2, height, width))


def test_a_single_image_can_be_trained_on_down_to_one_pixel():
    torch.manual_seed(0)
    net = unet.UNet(2, 3, num_down=3, base_channels=8).train()
    net(torch.randn(1, 2, 8, 8)).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


def test_an_image_does_not_depend_on_its_batch_in_eval_mode():
    torch.manual_seed(0)
    net = unet.UNet(2, 3, num_down=2, base_channels=4, dropout=0.5).double().eval()
    images = torch.randn(3, 2, 8, 12, dtype=torch.float64)
    alone = torch.cat([net(image[None]) for image in images])
    assert torch.allclose(net(images), alone, rtol=0, atol=1e-12)


def test_dropout_acts_in_training_only():
    net = unet.UNet(2, 3, num_down=2, base_channels=8, dropout=0.5)
    image = torch.randn(2, 2, 8, 8)
    assert not torch.equal(net(image), net(image))
    net.eval()
    assert torch.equal(net(image), net(image))
