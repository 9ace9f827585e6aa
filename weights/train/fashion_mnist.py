#!/usr/bin/env python3
"""Trains, exports and evaluates the shipped Fashion-MNIST networks. See ../README.md for the commands.

  classifier    WideResNet-10-1
  edm           NCSN++ as a denoiser (EDM)
  trajectories  the denoiser's probability-flow trajectories, a growing pool of shards
  consistency   consistency distillation on those trajectories, starting from the denoiser
  evaluate      accuracy, PGD, CMAP of the checkpoints; for choosing CMAP's parameters
  export        weights/*.safetensors and their entries in weights/manifest.json
  quality       measures the exported files and completes the manifest
  latents       what trajectories that start from images keep of them, by --noisy
  samples       docs/images/fashion-mnist-samples.png

Every training command resumes from its checkpoint in --dir. One thread by default: two commands on two cores are
faster than one command on two threads at this size.
"""
import gzip
import os
import time

import common  # first: it puts reference/ on the path
import numpy as np
import torch
from common import (Checkpoint, Progress, Task, accuracy, evaluate, export, latents, learning_rate, low_precision, make_trajectories, quality,
                    samples, train_consistency, train_edm)
from torch.nn import functional as F
from wide_resnet import WideResNet


def idx(path):
    with gzip.open(path) as f:
        data = f.read()
    shape = [int.from_bytes(data[4 + 4 * i:8 + 4 * i], 'big') for i in range(data[3])]
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape).copy())


def fashion_mnist(directory, split):
    """-> images [N, 1, 28, 28] in [0, 1], labels [N]"""
    name = {'train': 'train', 'test': 't10k'}[split]
    x = idx(os.path.join(directory, f'{name}-images-idx3-ubyte.gz'))[:, None].float() / 255
    return x, idx(os.path.join(directory, f'{name}-labels-idx1-ubyte.gz')).long()


def augment(x, g):
    """Flip, shift by up to two pixels; half of the images get a slight blur and noise, as restored images have."""
    b = x.shape[0]
    flip = torch.rand(b, generator=g) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    dx, dy = (torch.randint(0, 5, (2,), generator=g)).tolist()
    x = F.pad(x, (2, 2, 2, 2))[:, :, dy:dy + 28, dx:dx + 28]
    k = torch.tensor([1.0, 2.0, 1.0]) / 4
    blurred = F.conv2d(x, torch.outer(k, k)[None, None], padding=1)
    amount = (torch.rand(b, generator=g) * 2 - 1).clamp(min=0)[:, None, None, None]
    return (x + amount * (blurred - x) + 0.05 * amount * torch.randn(x.shape, generator=g)).clamp(0, 1)


def train_classifier(task, args):
    x, y = task.load(args.data, 'train')
    test = task.load(args.data, 'test')
    torch.manual_seed(args.seed)
    net = WideResNet(**task.wrn).to(memory_format=torch.channels_last)
    opt = torch.optim.SGD(net.parameters(), args.lr, momentum=0.9, nesterov=True, weight_decay=2e-4)
    check = Checkpoint(args, 'classifier')
    epoch, seconds = 0, 0.0
    if (state := check.load()):
        net.load_state_dict(state['net'])
        opt.load_state_dict(state['opt'])
        epoch, seconds = state['epoch'], state['seconds']
    per_epoch = len(x) // args.batch
    total = per_epoch * args.epochs
    progress = Progress('classifier', epoch * per_epoch, total)
    for epoch in range(epoch, args.epochs):
        begin = time.time()
        g = torch.Generator().manual_seed(args.seed * 1000 + epoch)
        order = torch.randperm(len(x), generator=g)
        net.train()
        loss_sum = 0.0
        for i in range(per_epoch):
            step = epoch * per_epoch + i
            for group in opt.param_groups:
                group['lr'] = learning_rate(step, total, args.lr, 200)
            pick = order[i * args.batch:(i + 1) * args.batch]
            batch = augment(x[pick], g).contiguous(memory_format=torch.channels_last)
            with low_precision(args):
                logits = net(batch)
            loss = F.cross_entropy(logits.float(), y[pick])
            opt.zero_grad()
            loss.backward()
            opt.step()
            loss_sum += loss.item()
            if i % 100 == 99:
                progress(step + 1, loss=loss.item())
        seconds += time.time() - begin
        progress((epoch + 1) * per_epoch, loss=loss_sum / per_epoch, test=accuracy(net, *test))
        check.save(net=net.state_dict(), opt=opt.state_dict(), epoch=epoch + 1, seconds=seconds, args=vars(args))


TASK = Task(
    name='fashion-mnist', title='Fashion-MNIST', script='weights/train/fashion_mnist.py', load=fashion_mnist,
    ncsnpp=dict(image_size=28, num_channels=1, nf=24, ch_mult=[1, 2], num_res_blocks=1, attn_resolutions=[7],
                dropout=0.0, fourier_scale=1, patch_size=2),
    wrn=dict(depth=10, widen_factor=1, num_classes=10, in_channels=1, image_size=28),
    classes=['T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot'],
    licence='MIT (this project); trained on Fashion-MNIST, MIT, Zalando SE',
    classifier_options=['epochs', 'batch', 'lr', 'seed'], augmentation='flips, shifts, some blurred or noisy')


def main():
    commands = common.Commands(__doc__, 'out/train', dict(default='/usr/share/datasets/fashion-mnist', help='the four IDX files (default: %(default)s)'))
    command = commands.add
    command('classifier', train_classifier, epochs=16, batch=128, lr=0.1)
    command('edm', train_edm, steps=4000, batch=64, lr=1.5e-3, ema=0.998, sigma_mean=-0.8, sigma_std=1.4)
    command('trajectories', make_trajectories, shards=900, first=0, stride=1, batch=128, noisy=5)
    command('consistency', train_consistency, steps=12000, minutes=25.0, batch=64, lr=1.5e-3, ema=0.998, top=0.4, huber=0.03, ssim=0.2)
    p = command('evaluate', evaluate, model='consistency', n=64, skip=0, eps=16.0, pgd_steps=40, pgd_step=0.0, only='both',
                kt='4x40', lr='2', alpha='2')
    p.add_argument('--lambda', default='5e-4')
    p.add_argument('--half', action='store_true', help='round weights to float16 first')
    command('export', export, model='consistency', dtype='f16')
    command('quality', quality, model='consistency', n=200, skip=0, restore=16)
    command('latents', latents, n=128, skip=0, levels=6)
    command('samples', samples, model='', out='')
    commands.run(TASK)


if __name__ == '__main__':
    main()
