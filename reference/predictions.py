"""What the published CIFAR-10 networks say about the test set: python3 reference/predictions.py --data DIR [NAME...]

DIR holds cifar10/ (test_batch.medz and codec.mjs, or test_batch.bin), cifar_resnet/*.th and cifar_robust/*.{pth,model}.
Writes test/fixtures/nets/real/NAME.safetensors, from PyTorch in float32:

    labels      uint8 [10000], the predicted class of every test image
    near_ties   uint32 [n], images whose two largest logits are less than 0.01 apart, so that rounding may decide
    logits      float32 [16, 10], of the first 16 images

with the accuracy in the metadata.
"""
import argparse
import glob
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch

import safetensors_io
from cifar_resnet import CifarResNet
from small_nets import CNN_STD, MEAN, STD, small_net

OUT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'test/fixtures/nets/real'))
NETWORKS = {
    **{f'resnet{depth}': (f'cifar_resnet/resnet{depth}-*.th', CifarResNet, dict(depth=depth))
       for depth in (20, 32, 44, 56)},
    'resnet2b': ('cifar_robust/resnet2b.pth', small_net, dict(arch='resnet2b', mean=MEAN, std=STD)),
    'resnet4b': ('cifar_robust/resnet4b.pth', small_net, dict(arch='resnet4b', mean=MEAN, std=STD)),
    **{name: (f'cifar_robust/{name}.model', small_net, dict(arch='cnn_a', mean=MEAN, std=CNN_STD))
       for name in ('cifar_cnn_a_adv', 'cifar_cnn_a_adv4', 'cifar_cnn_a_mix4')},
    'cifar_conv_small_pgd': ('cifar_robust/cifar_conv_small_pgd.pth', small_net,
                             dict(arch='conv_small', mean=MEAN, std=CNN_STD)),
}


def test_set(folder):
    """-> (images [10000, 3, 32, 32] in [0, 1], labels [10000])"""
    plain = os.path.join(folder, 'test_batch.bin')
    with tempfile.TemporaryDirectory() as temporary:
        if not os.path.exists(plain):
            packed, plain = os.path.join(folder, 'test_batch.medz'), os.path.join(temporary, 'test_batch.bin')
            subprocess.run(['node', os.path.join(folder, 'codec.mjs'), 'unpack', packed, plain], check=True)
        records = np.fromfile(plain, np.uint8).reshape(10000, 3073)
    images = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32)).float() / 255
    return images, torch.from_numpy(records[:, 0].astype(np.int64))


def state_dict(path):
    """Of the checkpoint kinds there are: a state_dict; one under 'state_dict', maybe in a list of one; names with or
    without the prefix of a data-parallel run."""
    state = torch.load(path, map_location='cpu')
    state = state.get('state_dict', state)
    if isinstance(state, list):
        (state,) = state
    return {name.removeprefix('module.'): tensor for name, tensor in state.items()}


@torch.no_grad()
def predict(name, data, images, truth):
    pattern, family, config = NETWORKS[name]
    found = glob.glob(os.path.join(data, pattern))
    if len(found) != 1:
        sys.exit(f'{len(found)} files match {pattern} in {data}; one is wanted')
    net = family(**config).eval()
    net.load_state_dict(state_dict(found[0]))
    logits = torch.cat([net(batch) for batch in images.split(250)])
    top = logits.topk(2, dim=1).values
    near = torch.nonzero(top[:, 0] - top[:, 1] < 0.01).flatten()
    labels = logits.argmax(1)
    correct = (labels == truth).sum().item()
    os.makedirs(OUT, exist_ok=True)
    safetensors_io.save(
        os.path.join(OUT, f'{name}.safetensors'),
        {'labels': labels.numpy().astype(np.uint8), 'near_ties': near.numpy().astype(np.uint32),
         'logits': logits[:16].numpy()},
        dict(generator='reference/predictions.py', torch=torch.__version__, file=os.path.basename(found[0]),
             config=config, accuracy=f'{correct / len(truth):.4f}', correct=str(correct)),
    )
    first = (labels[:1000] == truth[:1000]).float().mean().item()
    print(f'{name}: {correct / 100:.2f} %, first 1000 {100 * first:.1f} %, {len(near)} near ties', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--data', required=True)
    parser.add_argument('names', nargs='*', metavar='NAME', help=f'of {", ".join(NETWORKS)}; all by default')
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in NETWORKS]
    if unknown:
        parser.error(f'no network {unknown[0]}; there are {", ".join(NETWORKS)}')
    torch.set_num_threads(1)
    images, truth = test_set(os.path.join(options.data, 'cifar10'))
    for name in options.names or NETWORKS:
        predict(name, options.data, images, truth)


if __name__ == '__main__':
    main()
