"""Convolutional torso."""

from collections.abc import Sequence

from torch import nn

from qbench.layers import Sequential


class CNN(Sequential):
    """Convolutions, then one fully connected layer, ReLU after each.

    [B, channels, height, width] -> [B, out_features].

    Args:
        obs_shape: [channels, height, width] of one observation.
        channels: output channels of each convolution.
        kernel_sizes: their square kernels.
        strides: their strides.
        hidden_size: units of the fully connected layer.

    Raises:
        ValueError: not an image, or one that is smaller than a kernel.
    """

    def __init__(
        self,
        *,
        obs_shape: Sequence[int],
        channels: Sequence[int],
        kernel_sizes: Sequence[int],
        strides: Sequence[int],
        hidden_size: int,
    ) -> None:
        super().__init__()
        if len(obs_shape) != 3:
            raise ValueError(
                f"network=cnn takes images [planes, height, width], not obs_shape={obs_shape}."
            )
        fan_in, *size = obs_shape
        blocks: list[nn.Module] = []
        for fan_out, kernel, stride in zip(channels, kernel_sizes, strides, strict=True):
            if min(size) < kernel:
                raise ValueError(
                    f"network.kernel_sizes={list(kernel_sizes)} do not fit images of"
                    f" {obs_shape[1]}x{obs_shape[2]}: a kernel of {kernel} meets {size}."
                )
            blocks += [nn.Conv2d(fan_in, fan_out, kernel, stride), nn.ReLU()]
            size = [(n - kernel) // stride + 1 for n in size]
            fan_in = fan_out
        blocks += [nn.Flatten(), nn.Linear(fan_in * size[0] * size[1], hidden_size), nn.ReLU()]
        self.layers = Sequential(*blocks)
        self.out_features = hidden_size
