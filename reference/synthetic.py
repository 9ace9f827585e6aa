"""Synthetic weights: a formula instead of a file, the same bits here and in the TypeScript tests.

For element i of the tensor `name`, in the checkpoint's own layout, with uint32 arithmetic:

    v = i * 0x9E3779B1 + crc32(name);  v ^= v >> 16;  v *= 0x85EBCA6B;  v ^= v >> 13;  v *= 0xC2B2AE35;  v ^= v >> 16
    u = (v >> 8) / 2^23 - 1, in [-1, 1)
    value = float32(offset + scale * u)

Offset and scale keep activations near 1: matrices and kernels have variance 1/fan_in; norms and running statistics lie
around their neutral values, never at them, so that none can be forgotten.
"""
import math
import zlib

import numpy as np
import torch

from ncsnpp import NCSNpp, export_flax, import_flax


def offset_and_scale(name, shape):
    """By the canonical name and the shape in the checkpoint's layout."""
    if name == 'label_emb.weight':
        return 0.0, 1.0
    if len(shape) >= 2:
        # Flax kernels are HWIO or [in, out] (so are NIN's W and the Downsample of NCSN++), PyTorch's OIHW or [out, in].
        out_last = name.endswith(('.kernel', '.W', '.Conv2d_0.weight'))
        fan_in = math.prod(shape[:-1] if out_last else shape[1:])
        return 0.0, math.sqrt(3 / fan_in)
    if name.endswith('GaussianFourierProjection_0.W'):
        return 0.0, 16.0
    if name.endswith('running_var'):
        return 1.0, 0.5
    if name.endswith(('.scale', '.weight')):
        return 1.0, 0.2
    return 0.0, 0.1  # biases and running means


def synthetic(name, shape):
    """-> float32 array of `shape`."""
    n = math.prod(shape)
    with np.errstate(over='ignore'):
        v = np.arange(n, dtype=np.uint32)
        v *= np.uint32(0x9E3779B1)
        v += np.uint32(zlib.crc32(name.encode()))
        v ^= v >> 16
        v *= np.uint32(0x85EBCA6B)
        v ^= v >> 13
        v *= np.uint32(0xC2B2AE35)
        v ^= v >> 16
    u = (v >> 8) / 2 ** 23 - 1
    offset, scale = offset_and_scale(name, shape)
    return (offset + scale * u).astype(np.float32).reshape(shape)


def canonical_shapes(net):
    """-> name -> shape of all tensors of a checkpoint: Flax's for NCSN++, the state_dict's for all others."""
    if isinstance(net, NCSNpp):
        return {name: list(a.shape) for name, a in export_flax(net).items()}
    return {name: list(t.shape) for name, t in net.state_dict().items() if not name.endswith('num_batches_tracked')}


@torch.no_grad()
def fill(net):
    """Gives every tensor of the network its synthetic value; -> the network."""
    shapes = canonical_shapes(net)
    if isinstance(net, NCSNpp):
        return import_flax(net, {name: synthetic(name, shape) for name, shape in shapes.items()})
    state = net.state_dict()
    for name, shape in shapes.items():
        state[name].copy_(torch.from_numpy(synthetic(name, shape)))
    return net
