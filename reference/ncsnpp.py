"""NCSN++ and DDPM++ (Song et al. 2021, arXiv 2011.13456) in plain PyTorch.

NCSN++ as configured for the CIFAR-10 consistency models (Song et al. 2023): BigGAN residual blocks, FIR resampling
[1,3,3,1], skip connections divided by sqrt 2, a residual input pyramid, Fourier embedding of the noise level. DDPM++
resamples without a filter, has no pyramid and embeds a time label by sinusoids. Modules carry the names of the
published Flax parameters; layouts inside are PyTorch's and `export_flax` / `import_flax` convert; `torch_names` maps
to the names of the published PyTorch checkpoints.

`patch_size` is our addition: the image is folded to [C*p*p, H/p, W/p] before the network and unfolded after it.
"""
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

PUBLISHED_CIFAR10 = dict(
    image_size=32, num_channels=3, nf=128, ch_mult=[2, 2, 2], num_res_blocks=4, attn_resolutions=[16],
    dropout=0.0, fourier_scale=16, patch_size=1,
)
PUBLISHED_DDPMPP_CIFAR10 = dict(  # cifar10_ddpmpp_deep_continuous; its dropout of 0.1 is for training
    image_size=32, num_channels=3, nf=128, ch_mult=[1, 2, 2, 2], num_res_blocks=8, attn_resolutions=[16],
    dropout=0.0, fir=False, progressive_input='none', embedding_type='positional',
)
SQRT_HALF = math.sqrt(0.5)


def variance_scaling_(w, scale, fan_in, fan_out):
    """Uniform, by the mean of the fans; the published code turns scale 0 into 1e-10."""
    bound = math.sqrt(3 * max(scale, 1e-10) / ((fan_in + fan_out) / 2))
    return nn.init.uniform_(w, -bound, bound)


class Conv(nn.Conv2d):
    def __init__(self, c_in, c_out, size=3, stride=1, padding=None, init_scale=1.0):
        self.init_scale = init_scale
        super().__init__(c_in, c_out, size, stride, size // 2 if padding is None else padding)

    def reset_parameters(self):
        area = self.kernel_size[0] * self.kernel_size[1]
        variance_scaling_(self.weight, self.init_scale, area * self.in_channels, area * self.out_channels)
        nn.init.zeros_(self.bias)


class Dense(nn.Linear):
    def reset_parameters(self):
        variance_scaling_(self.weight, 1.0, self.in_features, self.out_features)
        nn.init.zeros_(self.bias)


class NIN(nn.Module):
    """A 1x1 convolution stored as W [in, out], b [out]."""

    def __init__(self, c_in, c_out, init_scale=0.1):
        super().__init__()
        self.W = nn.Parameter(variance_scaling_(torch.empty(c_in, c_out), init_scale, c_in, c_out))
        self.b = nn.Parameter(torch.zeros(c_out))

    def forward(self, x):
        return F.conv2d(x, self.W.t()[:, :, None, None], self.b)


class GroupNorm(nn.GroupNorm):
    """Normalises in the precision of its parameters, so that the rest may run under autocast."""

    def __init__(self, channels):
        super().__init__(min(channels // 4, 32), channels, eps=1e-6)

    def forward(self, x):
        return super().forward(x.to(self.weight.dtype))


def fir_kernel(x, gain=1.0):
    k = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device)
    return torch.outer(k, k)[None, None] * (gain / 64)


def fir_down(x):
    """Zero pad (1,1), correlate, keep every second pixel."""
    return F.conv2d(x, fir_kernel(x).expand(x.shape[1], -1, -1, -1), stride=2, padding=1, groups=x.shape[1])


def fir_up(x):
    """Zeros after every pixel, pad (2,1), correlate with 4K: per axis, out[2m] = (x[m-1] + 3x[m])/4 and
    out[2m+1] = (3x[m] + x[m+1])/4."""
    for axis in (2, 3):
        pad = (0, 0, 1, 1) if axis == 2 else (1, 1, 0, 0)
        p, n = F.pad(x, pad), x.shape[axis]
        even = p.narrow(axis, 0, n) + 3 * x
        odd = 3 * x + p.narrow(axis, 2, n)
        x = torch.stack([even, odd], axis + 1).flatten(axis, axis + 1) * 0.25
    return x


def mean_down(x):
    """The mean of every 2x2 square."""
    return F.avg_pool2d(x, 2)


def nearest_up(x):
    """Every pixel becomes a 2x2 square."""
    return F.interpolate(x, scale_factor=2, mode='nearest')


class Downsample(nn.Module):
    """FIR smoothing and a 3x3 convolution of stride 2."""

    def __init__(self, c_in, c_out):
        super().__init__()
        self.Conv2d_0 = Conv(c_in, c_out, stride=2, padding=0)

    def forward(self, x):
        smooth = F.conv2d(x, fir_kernel(x).expand(x.shape[1], -1, -1, -1), padding=2, groups=x.shape[1])
        return self.Conv2d_0(smooth)


class ResnetBlockBigGANpp(nn.Module):
    def __init__(self, c_in, c_out, temb, dropout, resample=None):
        super().__init__()
        self.resample = resample
        self.GroupNorm_0 = GroupNorm(c_in)
        self.Conv_0 = Conv(c_in, c_out)
        self.Dense_0 = Dense(temb, c_out)
        self.GroupNorm_1 = GroupNorm(c_out)
        self.Dropout_0 = nn.Dropout(dropout)
        self.Conv_1 = Conv(c_out, c_out, init_scale=0.0)
        self.Conv_2 = Conv(c_in, c_out, 1) if c_in != c_out or resample is not None else None

    def forward(self, x, temb):
        h = F.silu(self.GroupNorm_0(x))
        if self.resample:
            h, x = self.resample(h), self.resample(x)
        h = self.Conv_0(h) + self.Dense_0(F.silu(temb))[:, :, None, None]
        h = self.Conv_1(self.Dropout_0(F.silu(self.GroupNorm_1(h))))
        if self.Conv_2 is not None:
            x = self.Conv_2(x)
        return (x + h) * SQRT_HALF


class AttnBlockpp(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.GroupNorm_0 = GroupNorm(channels)
        for i in range(3):
            setattr(self, f'NIN_{i}', NIN(channels, channels))
        self.NIN_3 = NIN(channels, channels, init_scale=0.0)

    def forward(self, x):
        b, c, height, width = x.shape
        h = self.GroupNorm_0(x)
        q, k, v = (m(h).flatten(2) for m in (self.NIN_0, self.NIN_1, self.NIN_2))  # [b, c, pixels]
        a = torch.softmax(q.transpose(1, 2) @ k * c ** -0.5, dim=-1)
        h = (v @ a.transpose(1, 2)).reshape(b, c, height, width)
        return (x + self.NIN_3(h)) * SQRT_HALF


class GaussianFourierProjection(nn.Module):
    def __init__(self, size, scale):
        super().__init__()
        self.W = nn.Parameter(torch.randn(size) * scale, requires_grad=False)

    def forward(self, cond):
        p = cond[:, None] * self.W[None] * (2 * math.pi)
        return torch.cat([p.sin(), p.cos()], 1)


def positional_embedding(t, size):
    """Time labels [B] -> [B, size]: sin then cos of t * 10000^(-i / (size/2 - 1))."""
    half = size // 2
    i = torch.arange(half, dtype=t.dtype, device=t.device)
    p = t[:, None] * torch.exp(-math.log(10000) / (half - 1) * i)
    return torch.cat([p.sin(), p.cos()], 1)


class NCSNpp(nn.Module):
    """F(x, cond): [B, C, H, W] x [B] -> [B, C, H, W], x in [-1, 1] plus noise.

    cond is ln(sigma)/4 for the consistency models' Fourier embedding, the time label (999 t of the continuous VP SDE,
    t in [0, 1]) for the positional one. The output is the network's own; nothing is divided by sigma."""

    def __init__(self, image_size, num_channels, nf, ch_mult, num_res_blocks, attn_resolutions,
                 dropout=0.0, fourier_scale=16, patch_size=1,
                 fir=True, progressive_input='residual', embedding_type='fourier'):
        super().__init__()
        if progressive_input not in ('residual', 'none'):
            raise ValueError(f"progressive_input must be 'residual' or 'none', got {progressive_input!r}")
        if embedding_type not in ('fourier', 'positional'):
            raise ValueError(f"embedding_type must be 'fourier' or 'positional', got {embedding_type!r}")
        if progressive_input == 'residual' and not fir:
            raise ValueError('the residual input pyramid is written for fir=True only')
        self.config = dict(image_size=image_size, num_channels=num_channels, nf=nf, ch_mult=list(ch_mult),
                           num_res_blocks=num_res_blocks, attn_resolutions=list(attn_resolutions),
                           dropout=dropout, fourier_scale=fourier_scale, patch_size=patch_size,
                           fir=fir, progressive_input=progressive_input, embedding_type=embedding_type)
        self.patch = patch_size
        counts, temb = {}, 4 * nf
        down, up = (fir_down, fir_up) if fir else (mean_down, nearest_up)

        def add(module, kind=None):
            kind = kind or type(module).__name__
            name = f'{kind}_{counts.get(kind, 0)}'
            counts[kind] = counts.get(kind, 0) + 1
            self.add_module(name, module)
            return name

        def block(c_in, c_out, resample=None):
            return add(ResnetBlockBigGANpp(c_in, c_out, temb, dropout, resample))

        if embedding_type == 'fourier':
            add(GaussianFourierProjection(nf, fourier_scale))
        add(Dense(2 * nf if embedding_type == 'fourier' else nf, temb))
        add(Dense(temb, temb))
        channels = num_channels * patch_size ** 2
        size, pyramid, c = image_size // patch_size, channels, nf
        add(Conv(channels, nf))
        skips = [c]
        # The plan is a list of steps (what, module name...) that `forward` walks through.
        self.plan = []
        for level, mult in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                self.plan.append(('block', block(c, nf * mult)))
                c = nf * mult
                if size in attn_resolutions:
                    self.plan.append(('block', add(AttnBlockpp(c))))
                self.plan.append(('push',))
                skips.append(c)
            if level < len(ch_mult) - 1:
                self.plan.append(('block', block(c, c, down)))
                if progressive_input == 'residual':
                    self.plan.append(('pyramid', add(Downsample(pyramid, c))))
                    pyramid = c
                self.plan.append(('push',))
                skips.append(c)
                size //= 2
        self.plan += [('block', block(c, c)), ('block', add(AttnBlockpp(c))), ('block', block(c, c))]
        for level, mult in reversed(list(enumerate(ch_mult))):
            for _ in range(num_res_blocks + 1):
                self.plan.append(('pop',))
                self.plan.append(('block', block(c + skips.pop(), nf * mult)))
                c = nf * mult
            if size in attn_resolutions:
                self.plan.append(('block', add(AttnBlockpp(c))))
            if level > 0:
                self.plan.append(('block', block(c, c, up)))
                size *= 2
        assert not skips
        add(GroupNorm(c))
        add(Conv(c, channels, init_scale=0.0))

    def forward(self, x, cond):
        if self.patch > 1:
            x = F.pixel_unshuffle(x, self.patch)
        if self.config['embedding_type'] == 'fourier':
            embedded = self.GaussianFourierProjection_0(cond)
        else:
            embedded = positional_embedding(cond, self.config['nf'])
        temb = self.Dense_1(F.silu(self.Dense_0(embedded)))
        pyramid, h = x, self.Conv_0(x)
        skips = [h]
        for what, *names in self.plan:
            if what == 'push':
                skips.append(h)
            elif what == 'pop':
                h = torch.cat([h, skips.pop()], 1)
            elif what == 'pyramid':
                h = pyramid = (getattr(self, names[0])(pyramid) + h) * SQRT_HALF
            else:
                module = getattr(self, names[0])
                h = module(h) if isinstance(module, AttnBlockpp) else module(h, temb)
        h = self.Conv_1(F.silu(self.GroupNorm_0(h)))
        return F.pixel_shuffle(h, self.patch) if self.patch > 1 else h


def quarter_log(t):
    return 0.25 * t.log()


class Preconditioned(nn.Module):
    """The consistency function f(x, t) = c_skip x + c_out F(c_in x, cond(t)). With t_min = 0 it is EDM's denoiser.

    cond is ln(t)/4 for NCSN++ (adm.py has the U-Net's); `labels` [B] go to a class-conditional F."""

    def __init__(self, net, t_min=0.002, sigma_data=0.5, cond=quarter_log):
        super().__init__()
        self.net, self.t_min, self.sigma_data, self.cond = net, t_min, sigma_data, cond

    def forward(self, x, t, t_min=None, labels=None):
        t_min, sd = self.t_min if t_min is None else t_min, self.sigma_data
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(x.shape[0])
        s = t[:, None, None, None]
        c_in = (s ** 2 + sd ** 2).rsqrt()
        c_skip = sd ** 2 / ((s - t_min) ** 2 + sd ** 2)
        c_out = (s - t_min) * sd * c_in
        out = self.net(c_in * x, self.cond(t), *([] if labels is None else [labels]))
        return c_skip * x + c_out * out.to(x.dtype)


def _flax(name, module):
    """(suffix in Flax, to Flax, from Flax) of one parameter."""
    same = (lambda a: a), (lambda a: a)
    if isinstance(module, nn.Conv2d):
        if name == 'weight':
            # The published Downsample calls its HWIO kernel `weight`.
            return (None,) + ((lambda a: a.transpose(2, 3, 1, 0)), (lambda a: a.transpose(3, 2, 0, 1)))
    if isinstance(module, nn.Linear) and name == 'weight':
        return ('kernel',) + ((lambda a: a.T), (lambda a: a.T))
    if isinstance(module, nn.GroupNorm) and name == 'weight':
        return ('scale',) + same
    return (name,) + same


def _parameters(net):
    for path, module in net.named_modules():
        for name, p in module.named_parameters(recurse=False):
            suffix, to, back = _flax(name, module)
            if suffix is None:
                suffix = 'weight' if path.startswith('Downsample') else 'kernel'
            yield f'{path}.{suffix}', p, to, back


def export_flax(net):
    """-> dot-joined Flax name -> numpy array in Flax layout (HWIO kernels, [in, out] matrices)."""
    return {name: np.ascontiguousarray(to(p.detach().cpu().numpy())) for name, p, to, _ in _parameters(net)}


@torch.no_grad()
def import_flax(net, tensors):
    left = dict(tensors)
    for name, p, _, back in _parameters(net):
        a = torch.from_numpy(np.ascontiguousarray(back(left.pop(name)))).to(p.dtype)
        if a.shape != p.shape:
            raise ValueError(f'{name}: file has {tuple(a.shape)}, network wants {tuple(p.shape)}')
        p.copy_(a)
    if left:
        raise ValueError(f'not in the network: {sorted(left)}')
    return net


def torch_names(config):
    """-> Flax name -> name in the published PyTorch checkpoints (score_sde_pytorch and ports of it).

    There a network is one list, `all_modules`, in order of creation, which is this class's order too. Layouts differ
    from Flax's: OIHW convolutions (the `Downsample` too), [out, in] matrices; NIN's W is [in, out] in both."""
    net = NCSNpp(**config)
    index = {name: i for i, (name, _) in enumerate(net.named_children())}
    torch_name = {p: path for path, p in net.named_parameters()}
    names = {}
    for flax, p, _, _ in _parameters(net):
        top, rest = torch_name[p].split('.', 1)
        names[flax] = f'all_modules.{index[top]}.{rest}'
    return names


def _assert_published_indices():
    """The consistency models' PyTorch port, module by module: residual blocks, attention, and the rest."""
    names = torch_names(PUBLISHED_CIFAR10)
    blocks = [4, 5, 6, 7, 8, 10, 12, 14, 16, 18, *range(20, 25), *range(26, 38), *range(39, 45)]
    expected = {f'ResnetBlockBigGANpp_{i}.GroupNorm_0.scale': n for i, n in enumerate(blocks)}
    expected.update({f'AttnBlockpp_{i}.GroupNorm_0.scale': n for i, n in enumerate([11, 13, 15, 17, 25, 38])})
    expected.update({'GaussianFourierProjection_0.W': 0, 'Dense_0.kernel': 1, 'Dense_1.kernel': 2, 'Conv_0.kernel': 3,
                     'Downsample_0.Conv2d_0.weight': 9, 'Downsample_1.Conv2d_0.weight': 19,
                     'GroupNorm_0.scale': 45, 'Conv_1.kernel': 46})
    for name, i in expected.items():
        assert names[name].startswith(f'all_modules.{i}.'), (name, names[name], i)
    tops = {name.split('.')[1] for name in names.values()}
    assert len(expected) == len(tops) == 47, (len(expected), len(tops))


def count_parameters(net):
    return sum(p.numel() for p in net.parameters())


def count_macs(net):
    """Multiply-adds of one forward pass of one image: convolutions, matrices and attention."""
    total, hooks = [0], []

    def hook(m, inputs, out):
        if isinstance(m, nn.Conv2d):
            total[0] += out[0].numel() * m.weight[0].numel()
        elif isinstance(m, nn.Linear):
            total[0] += m.weight.numel()
        elif isinstance(m, NIN):
            total[0] += m.W.numel() * inputs[0][0, 0].numel()
        elif isinstance(m, AttnBlockpp):
            c, p = inputs[0].shape[1], inputs[0][0, 0].numel()
            total[0] += 2 * c * p * p
        else:
            return

    for m in net.modules():
        hooks.append(m.register_forward_hook(hook))
    c = net.config
    p = next(net.parameters())
    with torch.no_grad():
        net(torch.zeros(1, c['num_channels'], c['image_size'], c['image_size'], dtype=p.dtype), torch.zeros(1, dtype=p.dtype))
    for h in hooks:
        h.remove()
    return total[0]


if __name__ == '__main__':
    n = count_parameters(NCSNpp(**PUBLISHED_CIFAR10))
    assert n == 56_395_651, n
    print('published CIFAR-10 consistency model: 56,395,651 parameters')
    # Counted in score_sde_pytorch's own network; no paper states it.
    n = count_parameters(NCSNpp(**PUBLISHED_DDPMPP_CIFAR10))
    assert n == 106_632_579, n
    print('cifar10_ddpmpp_deep_continuous: 106,632,579 parameters')
    _assert_published_indices()
    print('module indices of the PyTorch checkpoints as published')
