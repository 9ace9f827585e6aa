"""The U-Net of OpenAI's diffusion papers, in plain PyTorch, under the names of the published state_dicts and flags.

Improved diffusion (Nichol & Dhariwal 2021): convolutions between the levels, attention of `num_heads`. ADM (Dhariwal &
Nichol 2021), which the ImageNet-64 consistency models (Song et al. 2023) use: residual blocks that resample, heads of
`num_head_channels`. `attention_type` says how qkv's 3C output channels are split: 'flash' = (three, heads, d), with qkv
and proj_out stored as 1x1 Conv2d, or 'legacy' = (heads, three, d), stored as Conv1d.
"""
import math

import torch
from torch import nn
from torch.nn import functional as F

ADM_IMAGENET64 = dict(
    image_size=64, num_channels=192, channel_mult='1,2,3,4', num_res_blocks=3, attention_resolutions='32,16,8',
    num_heads=4, num_head_channels=64, use_scale_shift_norm=True, resblock_updown=True, learn_sigma=False,
    class_cond=False, num_classes=1000, attention_type='flash',
)
ADM_IMAGENET64_COND = dict(ADM_IMAGENET64, class_cond=True)
IMPROVED_DIFFUSION_IMAGENET64 = dict(
    image_size=64, num_channels=128, channel_mult='1,2,3,4', num_res_blocks=3, attention_resolutions='16,8',
    num_heads=4, num_head_channels=-1, use_scale_shift_norm=True, resblock_updown=False, learn_sigma=True,
    class_cond=False, num_classes=1000, attention_type='legacy',
)


def numbers(flag):
    return [int(part) for part in flag.split(',')] if isinstance(flag, str) else list(flag)


def norm(channels):
    return nn.GroupNorm(32, channels, eps=1e-5)


def timestep_embedding(t, size):
    """Time labels [B] -> [B, size]: cos then sin of t * 10000^(-i / (size/2))."""
    half = size // 2
    i = torch.arange(half, dtype=t.dtype, device=t.device)
    p = t[:, None] * torch.exp(-math.log(10000) / half * i)
    return torch.cat([p.cos(), p.sin()], 1)


def consistency_time(sigma):
    """The time label the consistency models give this network."""
    return 1000 * 0.25 * torch.log(sigma + 1e-44)


class Upsample(nn.Module):
    """Every pixel becomes a 2x2 square, then a 3x3 convolution."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, _emb):
        return self.conv(F.interpolate(x, scale_factor=2, mode='nearest'))


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2, padded by 1 on all sides."""

    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x, _emb):
        return self.op(x)


class ResBlock(nn.Module):
    """skip(x') + out_layers(norm(in_layers(x)) modulated by emb), where a resampling block resamples x and the
    activated input alike, before the first convolution and without weights."""

    def __init__(self, c_in, c_out, emb_channels, scale_shift, resample=None):
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample
        self.in_layers = nn.Sequential(norm(c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, 2 * c_out if scale_shift else c_out))
        # Index 2 is the published dropout, which is for training.
        self.out_layers = nn.Sequential(norm(c_out), nn.SiLU(), nn.Identity(), nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def _resampled(self, x):
        if self.resample == 'up':
            return F.interpolate(x, scale_factor=2, mode='nearest')
        return F.avg_pool2d(x, 2) if self.resample == 'down' else x

    def forward(self, x, emb):
        normalise, activate, convolve = self.in_layers
        h = convolve(self._resampled(activate(normalise(x))))
        e = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, 1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(self._resampled(x)) + h


class AttentionBlock(nn.Module):
    """x + proj_out(attention(qkv(norm(x)))) over all pixels, scores scaled by d^-0.5."""

    def __init__(self, channels, num_heads, num_head_channels, attention_type):
        super().__init__()
        self.heads = num_heads if num_head_channels == -1 else channels // num_head_channels
        self.attention_type = attention_type
        conv = nn.Conv2d if attention_type == 'flash' else nn.Conv1d
        self.norm = norm(channels)
        self.qkv = conv(channels, 3 * channels, 1)
        self.proj_out = conv(channels, channels, 1)

    def forward(self, x, _emb):
        b, c, height, width = x.shape
        d, pixels = c // self.heads, height * width
        qkv = _pointwise(self.qkv, self.norm(x).flatten(2))
        if self.attention_type == 'flash':
            q, k, v = qkv.view(b, 3, self.heads, d, pixels).unbind(1)
        else:
            q, k, v = qkv.view(b, self.heads, 3, d, pixels).unbind(2)
        a = torch.softmax(q.transpose(-1, -2) @ k * d ** -0.5, dim=-1)
        h = (v @ a.transpose(-1, -2)).reshape(b, c, pixels)
        return x + _pointwise(self.proj_out, h).view(b, c, height, width)


def _pointwise(conv, x):
    """A convolution of size 1, Conv1d or Conv2d, on x [B, C, pixels]."""
    return F.conv1d(x, conv.weight.flatten(2), conv.bias)


class Stage(nn.ModuleList):
    def forward(self, h, emb):
        for layer in self:
            h = layer(h, emb)
        return h


class Stem(nn.Conv2d):
    def forward(self, x, _emb):
        return super().forward(x)


class UNet(nn.Module):
    """F(x, t, labels): [B, 3, S, S] x time labels [B] (x classes [B]) -> [B, 3 or 6, S, S].

    With `learn_sigma` channels 0-2 are the noise estimate and 3-5 the interpolation of the variance."""

    def __init__(self, image_size, num_channels, channel_mult, num_res_blocks, attention_resolutions,
                 num_heads=4, num_head_channels=-1, use_scale_shift_norm=True, resblock_updown=False,
                 learn_sigma=False, class_cond=False, num_classes=1000, attention_type='flash'):
        super().__init__()
        if attention_type not in ('flash', 'legacy'):
            raise ValueError(f"attention_type must be 'flash' or 'legacy', got {attention_type!r}")
        self.num_channels = num_channels
        mults, attention = numbers(channel_mult), numbers(attention_resolutions)
        emb = 4 * num_channels

        def res(c_in, c_out, resample=None):
            return ResBlock(c_in, c_out, emb, use_scale_shift_norm, resample)

        def attend(c):
            return AttentionBlock(c, num_heads, num_head_channels, attention_type)

        self.time_embed = nn.Sequential(nn.Linear(num_channels, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.label_emb = nn.Embedding(num_classes, emb) if class_cond else None
        size, c = image_size, mults[0] * num_channels
        self.input_blocks = nn.ModuleList([Stage([Stem(3, c, 3, padding=1)])])
        skips = [c]
        for level, mult in enumerate(mults):
            for _ in range(num_res_blocks):
                layers = [res(c, mult * num_channels)]
                c = mult * num_channels
                if size in attention:
                    layers.append(attend(c))
                self.input_blocks.append(Stage(layers))
                skips.append(c)
            if level < len(mults) - 1:
                self.input_blocks.append(Stage([res(c, c, 'down') if resblock_updown else Downsample(c)]))
                skips.append(c)
                size //= 2
        self.middle_block = Stage([res(c, c), attend(c), res(c, c)])
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(mults))):
            for i in range(num_res_blocks + 1):
                layers = [res(c + skips.pop(), mult * num_channels)]
                c = mult * num_channels
                if size in attention:
                    layers.append(attend(c))
                if level > 0 and i == num_res_blocks:
                    layers.append(res(c, c, 'up') if resblock_updown else Upsample(c))
                    size *= 2
                self.output_blocks.append(Stage(layers))
        self.out = nn.Sequential(norm(c), nn.SiLU(), nn.Conv2d(c, 6 if learn_sigma else 3, 3, padding=1))

    def forward(self, x, t, labels=None):
        if (labels is None) != (self.label_emb is None):
            raise ValueError('labels go to a class-conditional network, and only there')
        emb = self.time_embed(timestep_embedding(t, self.num_channels))
        if labels is not None:
            emb = emb + self.label_emb(labels)
        h, skips = x, []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], 1), emb)
        return self.out(h)


if __name__ == '__main__':
    # Counted in the published code.
    for config, published in (
        (ADM_IMAGENET64, 295_131_267), (ADM_IMAGENET64_COND, 295_899_267), (IMPROVED_DIFFUSION_IMAGENET64, 121_063_942),
    ):
        n = sum(p.numel() for p in UNet(**config).parameters())
        assert n == published, n
        print(f'{n:,} parameters')
