"""The 2-D U-Net: the semantic SRN's segmentation head, the image renderer and the SRN + U-Net baseline.

The attribute names make the keys of `state_dict` those of published checkpoints.
"""

import torch
from torch import nn


class UNet(nn.Module):
    """(B, in_channels, H, W) -> (B, out_channels, H, W), after DeepVoxels (Sitzmann et al., CVPR 2019).

    Level l works on an image of H / 2^l x W / 2^l pixels with min(base_channels * 2^l, max_channels) channels.
    """

    def __init__(self, in_channels, out_channels, num_down, base_channels=64, max_channels=512, dropout=0.0):
        super().__init__()
        if num_down < 1:
            raise ValueError(f"num_down is {num_down}; a U-Net needs at least 1 down-sampling")
        self.num_down = num_down
        channels = [min(base_channels * 2**level, max_channels) for level in range(num_down + 1)]

        self.in_layer = nn.Sequential(
            Conv2dSame(in_channels, channels[0], kernel_size=3, bias=False),
            *after_conv(channels[0], nn.LeakyReLU(0.2), dropout),
        )
        block = None
        for level in reversed(range(num_down)):
            block = SkipBlock(channels[level], channels[level + 1], block, dropout)
        self.unet_block = block
        self.out_layer = nn.Sequential(Conv2dSame(2 * channels[0], out_channels, kernel_size=3))

    def forward(self, image):
        height, width = image.shape[-2:]
        multiple = 2**self.num_down
        if height % multiple or width % multiple:
            raise ValueError(f"a U-Net's height and width must be multiples of {multiple}, got {height} x {width}")
        return self.out_layer(self.unet_block(self.in_layer(image)))


class Layers(nn.Module):
    """Layers one after another. Their keys begin with `net.`, as in published checkpoints."""

    def __init__(self, *layers):
        super().__init__()
        self.net = nn.Sequential(*layers)

    def forward(self, features):
        return self.net(features)


class UNetRenderer(Layers):
    """Colours from the image of features: (B, in_channels, H, W) -> (B, rgb_channels, H, W) in (-1, 1).

    H and W are multiples of 128.
    """

    SIZES = dict(num_down=7, base_channels=32, max_channels=256, dropout=0.2)

    def __init__(self, in_channels, rgb_channels):
        super().__init__(UNet(in_channels, rgb_channels, **self.SIZES), nn.Tanh())
        self.side_multiple = 2 ** self.SIZES["num_down"]


class SkipBlock(nn.Module):
    """One level: halve the image, run the levels below, double it, and put the input beside the result.

    (B, outer_channels, H, W) -> (B, 2 * outer_channels, H, W). The innermost level, whose `inner` is None, is not
    normalised: in training, its 1 x 1 pixel of a batch of one would have no variance.
    """

    def __init__(self, outer_channels, inner_channels, inner, dropout):
        super().__init__()
        norm = inner is not None
        down = DownBlock(outer_channels, inner_channels, dropout, norm)
        up = UpBlock(2 * inner_channels if inner else inner_channels, outer_channels, dropout, norm)
        self.model = nn.Sequential(*[block for block in (down, inner, up) if block is not None])

    def forward(self, features):
        return torch.cat([features, self.model(features)], dim=1)


class DownBlock(Layers):
    """(B, C_in, H, W) -> (B, C_out, H / 2, W / 2): a 3 x 3 convolution, then a 4 x 4 one of stride 2."""

    def __init__(self, in_channels, out_channels, dropout, norm):
        super().__init__(
            nn.ReflectionPad2d(1),
            nn.Conv2d(in_channels, in_channels, kernel_size=3, bias=not norm),
            *after_conv(in_channels, nn.LeakyReLU(0.2), dropout, norm),
            nn.ReflectionPad2d(1),
            nn.Conv2d(in_channels, out_channels, kernel_size=4, stride=2, bias=not norm),
            *after_conv(out_channels, nn.LeakyReLU(0.2), dropout, norm),
        )


class UpBlock(Layers):
    """(B, C_in, H, W) -> (B, C_out, 2 H, 2 W): a 4 x 4 transposed convolution, then a 3 x 3 convolution."""

    def __init__(self, in_channels, out_channels, dropout, norm):
        super().__init__(
            nn.ConvTranspose2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1, bias=not norm),
            *after_conv(out_channels, nn.ReLU(), dropout, norm),
            Conv2dSame(out_channels, out_channels, kernel_size=3, bias=not norm),
            *after_conv(out_channels, nn.ReLU(), dropout, norm),
        )


class Conv2dSame(Layers):
    """A convolution that keeps height and width by reflecting the border. The kernel size is odd."""

    def __init__(self, in_channels, out_channels, kernel_size, bias=True):
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, bias=bias)
        super().__init__(nn.ReflectionPad2d(kernel_size // 2), conv)


def after_conv(channels, nonlinearity, dropout=0.0, norm=True):
    """What follows a convolution: [batch norm], the nonlinearity, and [dropout of whole channels]."""
    layers = [nn.BatchNorm2d(channels), nonlinearity] if norm else [nonlinearity]
    return [*layers, nn.Dropout2d(dropout)] if dropout else layers
