#!/usr/bin/env python3
"""Trains, exports and evaluates the shipped CIFAR-10 networks. See ../README.md for the commands.

  classifier    WideResNet-16-4
  robust        the same, trained adversarially from there on
  edm           NCSN++ as a denoiser (EDM)
  trajectories  the denoiser's probability-flow trajectories, a growing pool of shards
  consistency   consistency distillation on those trajectories, starting from the denoiser
  evaluate      accuracy, PGD, CMAP of the checkpoints; for choosing CMAP's parameters
  export        weights/*.safetensors and their entries in weights/manifest.json
  quality       measures the exported files and completes the manifest
  latents       what trajectories that start from images keep of them, by --noisy
  samples       docs/images/cifar10-samples.png, or samples of a checkpoint

Every training command resumes from its checkpoint in --dir; a larger --epochs or --steps goes on from there. One thread
by default: two commands on two cores are faster than one command on two threads at this size.
"""
import copy
import os
import time

import common  # first: it puts reference/ on the path
import numpy as np
import torch
from common import (Checkpoint, Progress, Task, accuracy, evaluate, export, finite, latents, low_precision, make_trajectories, quality,
                    samples, train_consistency, train_edm, update_average)
from torch.nn import functional as F
from wide_resnet import WideResNet


def cifar10(directory, split):
    """The official binary batches -> images [N, 3, 32, 32] in [0, 1], labels [N]"""
    names = {'train': [f'data_batch_{i}' for i in range(1, 6)], 'test': ['test_batch']}[split]
    rows = np.concatenate([np.fromfile(os.path.join(directory, n + '.bin'), np.uint8).reshape(-1, 3073) for n in names])
    return torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32)).float() / 255, torch.from_numpy(rows[:, 0]).long()


def augment(x, flip, shift, cutout, size, g):
    """Per image: flip, shift by up to `shift` pixels with reflected borders, a square of `cutout` pixels greyed out;
    then all are scaled to `size`."""
    b, c, h, w = x.shape

    def reflected(i, n):
        return (n - 1) - ((n - 1) - i.abs()).abs()

    def window(n):
        """[b, n] true in a random interval of `cutout` pixels"""
        i = torch.arange(n)[None] - torch.randint(1 - cutout, n, (b, 1), generator=g)
        return (i >= 0) & (i < cutout)

    down, right = torch.randint(-shift, shift + 1, (2, b, 1), generator=g)
    columns = torch.where(flip[:, None], torch.arange(w).flip(0), torch.arange(w))
    rows = reflected(torch.arange(h)[None] + down, h)
    columns = reflected(columns + right, w)
    x = x[torch.arange(b)[:, None, None, None], torch.arange(c)[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]
    if cutout:
        x = torch.where((window(h)[:, :, None] & window(w)[:, None])[:, None], x.mean((0, 2, 3), keepdim=True), x)
    return x if size == h else F.interpolate(x, size=(size, size), mode='bilinear', antialias=True)


def training_attack(method, net, x, y, eps, args, g):
    """`fgsm-rs`: from a random start, one signed step of 1.25 eps (Wong et al. 2020), which a network soon learns to answer and
    nothing else; `pgd-N`: N steps of 1.25 eps/N (Madry et al. 2018)."""
    steps = 1 if method == 'fgsm-rs' else int(method.split('-')[1])
    point = (x + (2 * torch.rand(x.shape, generator=g) - 1) * eps).clamp(0, 1)
    for _ in range(steps):
        point.requires_grad_(True)
        with low_precision(args):
            loss = F.cross_entropy(net(point.contiguous(memory_format=torch.channels_last)).float(), y)
        (gradient,) = torch.autograd.grad(loss, point)
        point = point.detach() + 1.25 / steps * eps * gradient.sign()
        point = torch.min(torch.max(point, x - eps), x + eps).clamp(0, 1)
    return point


def train_classifier(task, args):
    """One cycle of linear warm-up and decay to zero, on images that grow (--sizes, spread over the cycle's epochs).
    A larger --epochs on a checkpoint begins another cycle with the options given. With --eps the images are attacked on the
    way, and the network, `robust`, starts from the plain one."""
    x, y = task.load(args.data, 'train')
    test = task.load(args.data, 'test')
    torch.manual_seed(args.seed)
    net = WideResNet(**task.wrn).to(memory_format=torch.channels_last)
    average = copy.deepcopy(net)
    decayed = [p for p in net.parameters() if p.dim() > 1]
    opt = torch.optim.SGD([dict(params=decayed, weight_decay=args.decay),
                           dict(params=[p for p in net.parameters() if p.dim() == 1])], args.lr, momentum=0.9, nesterov=True)
    # Flips alternate between epochs, so that two epochs show both sides of each image (Jordan 2024).
    side = torch.rand(len(x), generator=torch.Generator().manual_seed(args.seed)) < 0.5
    name = 'robust' if args.eps else 'classifier'
    check, cycles, epoch, seconds, start = Checkpoint(args, name), [], 0, 0.0, None
    if (state := check.load()):
        start = state.get('start')
        net.load_state_dict(state['net'])
        average.load_state_dict(state['average'])
        opt.load_state_dict(state['opt'])
        cycles, epoch, seconds = state['cycles'], state['epoch'], state['seconds']
    elif args.eps:
        plain = Checkpoint(args, 'classifier').need()
        net.load_state_dict(plain['average'])
        average.load_state_dict(plain['average'])
        start = dict(cycles=plain.get('cycles', [plain['args']]), epoch=plain['epoch'])
    if not cycles or (args.epochs > epoch and args.epochs != cycles[-1]['epochs']):
        cycles = [c for c in cycles if c['first'] < epoch] + [dict(vars(args), first=epoch)]
    cycle = cycles[-1]
    first, last, sizes = cycle['first'], cycle['epochs'], [int(s) for s in cycle['sizes'].split(',')]
    per_epoch = len(x) // cycle['batch']
    total = per_epoch * last
    progress = Progress(name, epoch * per_epoch, total)
    print(f'{sum(p.numel() for p in net.parameters()):,} parameters; epochs {epoch} to {last}', flush=True)
    for epoch in range(epoch, last):
        begin = time.time()
        g = torch.Generator().manual_seed(args.seed * 1000 + epoch)
        order = torch.randperm(len(x), generator=g)
        size = sizes[(epoch - first) * len(sizes) // (last - first)]
        net.train()
        loss_sum = 0.0
        for i in range(per_epoch):
            step = epoch * per_epoch + i
            done = (step - first * per_epoch) / (total - first * per_epoch)
            for group in opt.param_groups:
                group['lr'] = cycle['lr'] * min((done + 1e-3) / 0.15, (1 - done) / 0.85)
            pick = order[i * cycle['batch']:(i + 1) * cycle['batch']]
            batch = augment(x[pick], side[pick] ^ (epoch % 2 == 1), 4, cycle['cutout'], size, g)
            if cycle.get('eps'):
                batch = training_attack(cycle.get('method', 'fgsm-rs'), net, batch, y[pick], cycle['eps'] / 255, args, g)
            with low_precision(args):
                logits = net(batch.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), y[pick], label_smoothing=cycle['smoothing'])
            opt.zero_grad()
            loss.backward()
            opt.step()
            update_average(average, net, step, cycle['ema'])
            loss_sum += finite(loss.item(), step)
            if i % 50 == 49:
                progress(step + 1, loss=loss_sum / (i + 1), size=size)
        seconds += time.time() - begin
        check.save(net=net.state_dict(), average=average.state_dict(), opt=opt.state_dict(), epoch=epoch + 1, seconds=seconds,
                   cycles=cycles, start=start, args=vars(args))
        # On the way a fifth of the test images is enough to follow.
        some = len(test[1]) if epoch + 1 == last else 2000
        with low_precision(args):
            a = accuracy(average, test[0][:some], test[1][:some])
        told = dict(loss=loss_sum / per_epoch, test=a, images=some, seconds=seconds)
        if cycle.get('eps'):
            # Training on few steps may forget all other attacks within an epoch: a stronger one tells.
            few, eps = (test[0][:250], test[1][:250]), cycle['eps'] / 255
            with low_precision(args):
                told['pgd10'] = (average(common.cmap.pgd(average, *few, eps, 10, eps / 4)).argmax(1) == few[1]).float().mean().item()
        progress((epoch + 1) * per_epoch, **told)


TASK = Task(
    name='cifar10', title='CIFAR-10', script='weights/train/cifar10.py', load=cifar10,
    ncsnpp=dict(image_size=32, num_channels=3, nf=96, ch_mult=[1, 1], num_res_blocks=1, attn_resolutions=[8],
                dropout=0.0, fourier_scale=1, patch_size=4),
    wrn=dict(depth=16, widen_factor=4, num_classes=10, in_channels=3, image_size=32),
    classes=['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck'],
    licence='MIT (this project); trained on CIFAR-10 (Krizhevsky 2009), whose authors state no licence',
    classifier_options=['epochs', 'batch', 'lr', 'decay', 'smoothing', 'cutout', 'ema', 'sizes', 'seed'],
    augmentation='flips, shifts, smaller images at first', mirror=True)


def main():
    commands = common.Commands(__doc__, 'out/train-cifar10', dict(required=True, help='the six official binary batches'))
    command = commands.add
    command('classifier', train_classifier, epochs=8, batch=128, lr=0.15, decay=5e-4, smoothing=0.1, cutout=0, ema=0.998,
            sizes='20,20,20,24,24,28,28,32', eps=0.0, method='')
    command('robust', train_classifier, epochs=3, batch=128, lr=0.05, decay=5e-4, smoothing=0.0, cutout=0, ema=0.998,
            sizes='24,24,32', eps=8.0, method='pgd-2')
    command('edm', train_edm, steps=16000, batch=64, lr=1e-3, ema=0.999, sigma_mean=-0.8, sigma_std=1.4)
    command('trajectories', make_trajectories, shards=400, first=0, stride=1, batch=128, noisy=3)
    command('consistency', train_consistency, steps=12000, minutes=100.0, batch=64, lr=1e-3, ema=0.999, top=0.4, huber=0.03, ssim=0.2)
    p = command('evaluate', evaluate, model='consistency', n=64, skip=0, eps=8.0, pgd_steps=40, pgd_step=0.0, only='both',
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
