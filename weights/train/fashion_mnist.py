#!/usr/bin/env python3
"""Trains, exports and evaluates the shipped Fashion-MNIST networks. See ../README.md for the commands.

  classifier    WideResNet-10-1
  edm           NCSN++ as a denoiser (EDM)
  trajectories  the denoiser's probability-flow trajectories, a growing pool of shards
  consistency   consistency distillation on those trajectories, starting from the denoiser
  evaluate      accuracy, PGD, CMAP of the checkpoints; for choosing CMAP's parameters
  export        weights/*.safetensors and their entries in weights/manifest.json
  quality       measures the exported files and completes the manifest
  samples       docs/images/fashion-mnist-samples.png

Every training command resumes from its checkpoint in --dir. One thread by default: two commands on two cores are
faster than one command on two threads at this size.
"""
import argparse
import copy
import gzip
import hashlib
import json
import math
import os
import struct
import sys
import time
import zlib

import numpy as np
import torch
from torch.nn import functional as F

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..'))
sys.path.insert(0, os.path.join(ROOT, 'reference'))
import cmap  # noqa: E402
import safetensors_io  # noqa: E402
from ncsnpp import NCSNpp, Preconditioned, count_macs, count_parameters, export_flax, import_flax  # noqa: E402
from wide_resnet import WideResNet  # noqa: E402

NCSNPP = dict(image_size=28, num_channels=1, nf=24, ch_mult=[1, 2], num_res_blocks=1, attn_resolutions=[7],
              dropout=0.0, fourier_scale=1, patch_size=2)
WRN = dict(depth=10, widen_factor=1, num_classes=10, in_channels=1, image_size=28)
LEVELS = 18  # of the Karras grid, rho 7, as in the published consistency distillation


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


def karras_grid():
    """sigma ascending: .002, .., .1395, .., 80"""
    i = torch.arange(LEVELS, dtype=torch.float64) / (LEVELS - 1)
    return (0.002 ** (1 / 7) + i * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7


def low_precision(args):
    """bfloat16 for convolutions and matrix products; weights, normalisation and sums stay float32."""
    return torch.autocast('cpu', torch.bfloat16, enabled=args.bf16)


class Progress:
    def __init__(self, name, first, total):
        self.name, self.first, self.total, self.begin = name, first, total, time.time()

    def __call__(self, step, **values):
        rate = (time.time() - self.begin) / max(step - self.first, 1)
        left = rate * (self.total - step)
        text = '  '.join(f'{k} {v:.4f}' for k, v in values.items())
        print(f'{self.name} {step}/{self.total}  {text}  {rate * 1e3:.0f} ms/step  ETA {left / 60:.1f} min', flush=True)


class Checkpoint:
    def __init__(self, args, name):
        os.makedirs(args.dir, exist_ok=True)
        self.path = os.path.join(args.dir, name + '.pt')

    def load(self):
        return torch.load(self.path) if os.path.exists(self.path) else None

    def save(self, **state):
        torch.save(state, self.path + '.part')
        os.replace(self.path + '.part', self.path)


def learning_rate(step, total, peak, warm_up=100):
    return peak * min(1, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(1, step / total)))


@torch.no_grad()
def update_average(average, net, step, decay):
    d = min(decay, (1 + step) / (10 + step))
    for a, p in zip(average.parameters(), net.parameters()):
        a.lerp_(p, 1 - d)


# ---------------------------------------------------------------------------------------------------------------------


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


@torch.no_grad()
def accuracy(net, x, y):
    net.eval()
    return sum((net(a).argmax(1) == b).sum().item() for a, b in zip(x.split(500), y.split(500))) / len(y)


def train_classifier(args):
    x, y = fashion_mnist(args.data, 'train')
    test = fashion_mnist(args.data, 'test')
    torch.manual_seed(args.seed)
    net = WideResNet(**WRN).to(memory_format=torch.channels_last)
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


# ---------------------------------------------------------------------------------------------------------------------


def train_edm(args):
    """ln sigma ~ N(mean, std^2), weight (sigma^2 + sd^2) / (sigma sd)^2, Adam, exponential moving average."""
    x = fashion_mnist(args.data, 'train')[0] * 2 - 1
    torch.manual_seed(args.seed)
    f = Preconditioned(NCSNpp(**NCSNPP))
    average = copy.deepcopy(f)
    opt = torch.optim.Adam(f.parameters(), args.lr, betas=(0.9, 0.99))
    check = Checkpoint(args, 'edm')
    step, seconds = 0, 0.0
    if (state := check.load()):
        f.load_state_dict(state['net'])
        average.load_state_dict(state['average'])
        opt.load_state_dict(state['opt'])
        step, seconds = state['step'], state['seconds']
    print(f'{count_parameters(f.net):,} parameters, {count_macs(f.net):,} multiply-adds a forward pass')
    progress, mean_loss, begin = Progress('edm', step, args.steps), None, time.time()
    while step < args.steps:
        g = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        clean = x[torch.randint(len(x), (args.batch,), generator=g)]
        sigma = torch.exp(torch.randn(args.batch, generator=g) * args.sigma_std + args.sigma_mean).clamp(0.002, 80)
        noisy = clean + sigma[:, None, None, None] * torch.randn(clean.shape, generator=g)
        for group in opt.param_groups:
            group['lr'] = learning_rate(step, args.steps, args.lr)
        with low_precision(args):
            out = f(noisy, sigma, t_min=0.0)
        weight = (sigma ** 2 + 0.25) / (0.5 * sigma) ** 2
        loss = (weight * ((out - clean) ** 2).flatten(1).mean(1)).mean()
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(f.parameters(), 1.0)
        opt.step()
        step += 1
        update_average(average, f, step, args.ema)
        mean_loss = loss.item() if mean_loss is None else 0.99 * mean_loss + 0.01 * loss.item()
        if step % 50 == 0:
            progress(step, loss=mean_loss)
        if step % 250 == 0 or step == args.steps:
            check.save(net=f.state_dict(), average=average.state_dict(), opt=opt.state_dict(), step=step,
                       seconds=seconds + time.time() - begin, args=vars(args))


def load_consistency(args, name='consistency'):
    f = Preconditioned(NCSNpp(**NCSNPP))
    state = Checkpoint(args, name).load()
    f.load_state_dict(state['average'])
    return f.eval(), state


@torch.no_grad()
def trajectory(f, start, grid):
    """Heun's method for dx/dt = (x - D(x, t)) / t along the grid -> [levels, B, C, H, W]."""
    def slope(x, t):
        return (x - f(x, t, t_min=0.0).float()) / t

    states, x = [start], start
    for a, b in zip(grid[:-1].tolist(), grid[1:].tolist()):
        d = slope(x, a)
        euler = x + (b - a) * d
        x = x + (b - a) * 0.5 * (d + slope(euler, b))
        states.append(x)
    return torch.stack(states)


def make_trajectories(args):
    """Shards of float16 states [B, 18, 784], ascending sigma. Half start from noise at 80 and run down; half start
    from training images, with true noise up to level `noisy`, and run up: their origin is the image itself."""
    f, state = load_consistency(args, 'edm')
    x = fashion_mnist(args.data, 'train')[0] * 2 - 1
    grid, out = karras_grid(), os.path.join(args.dir, 'trajectories')
    os.makedirs(out, exist_ok=True)
    progress = Progress('trajectories', args.first, args.shards)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(args.seed))
    for shard in range(args.first, args.shards, args.stride):
        path = os.path.join(out, f'{shard:05d}.npy')
        if os.path.exists(path):
            continue
        g = torch.Generator().manual_seed(args.seed * 7919 + shard)
        noise = torch.randn((args.batch, 1, 28, 28), generator=g)
        with low_precision(args):
            if shard % 2:
                states = trajectory(f, 80 * noise, grid.flip(0)).flip(0)
            else:
                i = shard // 2 * args.batch
                images = x[order[torch.arange(i, i + args.batch) % len(x)]]
                low = images + grid[:args.noisy, None, None, None, None].float() * noise
                states = torch.cat([images[None], low[1:], trajectory(f, images + grid[args.noisy].item() * noise, grid[args.noisy:])])
        np.save(path + '.part.npy', states.transpose(0, 1).flatten(2).half().numpy())
        os.replace(path + '.part.npy', path)
        if shard // args.stride % 10 == 0:
            progress(shard + 1, latent_std=states[-1].std().item(), image_std=states[0].std().item())


# ---------------------------------------------------------------------------------------------------------------------


def train_consistency(args):
    """f(x_t, t) is drawn to the origin of x_t's trajectory: pseudo-Huber distance plus 1 - SSIM. The level 80, the one
    that purification uses, gets a share of its own."""
    grid = karras_grid().float()
    torch.manual_seed(args.seed)
    f, state = load_consistency(args, 'edm')
    f.train()
    average = copy.deepcopy(f)
    opt = torch.optim.Adam(f.parameters(), args.lr, betas=(0.9, 0.99))
    check = Checkpoint(args, 'consistency')
    step, seconds = 0, 0.0
    if (state := check.load()):
        f.load_state_dict(state['net'])
        average.load_state_dict(state['average'])
        opt.load_state_dict(state['opt'])
        step, seconds = state['step'], state['seconds']
    pool, seen, where = [], set(), os.path.join(args.dir, 'trajectories')
    progress, mean_loss, begin = Progress('consistency', step, args.steps), {}, time.time()

    def save():
        check.save(net=f.state_dict(), average=average.state_dict(), opt=opt.state_dict(), step=step,
                   seconds=seconds + time.time() - begin, pool=sum(map(len, pool)), args=vars(args))

    while True:
        # Ends after --steps or --minutes, whichever comes first; the learning rate follows.
        done = max(step / args.steps, (seconds + time.time() - begin) / 60 / args.minutes)
        if done >= 1:
            break
        if step % 100 == 0 or not pool:
            for name in sorted(set(os.listdir(where)) - seen):
                if name.endswith('.part.npy'):
                    continue
                seen.add(name)
                pool.append(torch.from_numpy(np.load(os.path.join(where, name))))
        g = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        rows = torch.stack([
            pool[s][r] for s, r in zip(
                torch.randint(len(pool), (args.batch,), generator=g).tolist(),
                torch.randint(len(pool[0]), (args.batch,), generator=g).tolist())
        ]).float()
        # Triangular towards large sigma, and `--top` of the batch at 80.
        u = torch.rand(args.batch, generator=g).sqrt()
        level = (1 + u * (LEVELS - 1)).long().clamp(1, LEVELS - 1)
        level[:int(args.top * args.batch)] = LEVELS - 1
        clean = rows[:, 0].view(-1, 1, 28, 28)
        noisy = rows[torch.arange(args.batch), level].view(-1, 1, 28, 28)
        for group in opt.param_groups:
            group['lr'] = args.lr * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * done))
        with low_precision(args):
            out = f(noisy, grid[level])
        d = ((out - clean) ** 2 + args.huber ** 2).sqrt().flatten(1).mean(1) - args.huber
        s = 1 - cmap.ssim_map((out + 1) / 2, (clean + 1) / 2).flatten(1).mean(1)
        loss = (d + args.ssim * s).mean()
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(f.parameters(), 1.0)
        opt.step()
        step += 1
        update_average(average, f, step, args.ema)
        top = level == LEVELS - 1
        now = dict(loss=loss.item(), distance80=d[top].mean().item(), ssim80=1 - s[top].mean().item(), rest=d[~top].mean().item())
        mean_loss = {k: 0.98 * mean_loss.get(k, v) + 0.02 * v for k, v in now.items()}
        if step % 50 == 0:
            progress(step, **mean_loss, pool=len(pool))
        if step % 250 == 0:
            save()
    save()


# ---------------------------------------------------------------------------------------------------------------------


def wilson(k, n, z=1.96):
    """95 % interval of a proportion."""
    p = k / n
    mid, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (mid - half) / (1 + z * z / n), (mid + half) / (1 + z * z / n)


def share(hits):
    k, n = int(hits.sum()), len(hits)
    low, high = wilson(k, n)
    return dict(correct=k, n=n, accuracy=round(k / n, 4), wilson95=[round(low, 4), round(high, 4)])


def shipped(args, half=False):
    """The two networks of the latest checkpoints, optionally rounded to float16."""
    f, state = load_consistency(args, args.model)
    net = WideResNet(**WRN)
    saved = Checkpoint(args, 'classifier').load()
    net.load_state_dict(saved['net'])
    nets = [f.eval().requires_grad_(False), net.eval().requires_grad_(False)]
    if half:
        for m in nets:
            for t in m.state_dict().values():
                if t.is_floating_point():
                    t.copy_(t.half().float())
    return nets, state, saved


def purify(f, x, options, seed, batch=16):
    """-> images [N, K, 1, 28, 28], trace [N, T, 4]; float32 throughout."""
    images, traces = [], []
    for i, part in enumerate(x.split(batch)):
        g = torch.Generator().manual_seed(seed * 1009 + i)
        z0 = 80 * torch.randn((len(part), options['k'], 1, 28, 28), generator=g)
        out, _, trace = cmap.purify(f, part, z0, options['iterations'], options['lr'], options['alpha'], options['lambda'])
        images.append(out)
        traces.append(trace)
    return torch.cat(images), torch.cat(traces)


def judge(net, images, y):
    with torch.no_grad():
        logits = net(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    return cmap.hard_vote(logits) == y


def select(args):
    """The first n test images from --skip on; those the embedded subset begins with unless --skip says otherwise."""
    x, y = fashion_mnist(args.data, 'test')
    return x[args.skip:args.skip + args.n], y[args.skip:args.skip + args.n]


def attacked(net, x, y, args):
    step = args.pgd_step or 2.5 * args.eps / args.pgd_steps
    return cmap.pgd(net, x, y, args.eps / 255, args.pgd_steps, step / 255, torch.Generator().manual_seed(args.seed))


def evaluate(args):
    """Bare and purified accuracy; several values of an option, comma-separated, are swept."""
    (f, net), state, _ = shipped(args, args.half)
    x, y = select(args)
    adv = attacked(net, x, y, args)
    with torch.no_grad():
        print(f'{args.model}, step {state["step"]}; images {args.skip} to {args.skip + len(x) - 1}; PGD-{args.pgd_steps}, eps {args.eps:g}/255')
        print('bare, clean   ', share(net(x).argmax(1) == y))
        print('bare, attacked', share(net(adv).argmax(1) == y), flush=True)
    settings = [dict(k=int(k), iterations=int(t), lr=float(lr), alpha=float(a), **{'lambda': float(lam)})
                for kt in args.kt.split(',') for k, t in [kt.split('x')] for lr in args.lr.split(',')
                for a in args.alpha.split(',') for lam in getattr(args, 'lambda').split(',')]
    for options in settings:
        begin, text = time.time(), []
        for name, images in (('clean', x), ('attacked', adv)):
            if args.only in ('both', name):
                out, trace = purify(f, images, options, args.seed)
                last = trace[:, -1].mean(0).tolist()
                text.append(f'{name} {share(judge(net, out, y))} mae {last[1]:.4f} ssim {last[2]:.4f} constraint {last[3]:.1f}')
        print(options, f'{time.time() - begin:.0f} s', *text, sep='\n    ', flush=True)


# ---------------------------------------------------------------------------------------------------------------------

WEIGHTS = os.path.join(ROOT, 'weights')
CONSISTENCY, CLASSIFIER = 'fashion-mnist-consistency', 'fashion-mnist-wrn'
CLASSES = ['T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot']
HARDWARE = 'two CPU cores (AMD EPYC, Zen 4) shared with other work, PyTorch ' + torch.__version__.split('a')[0]
LICENCE = 'MIT (this project); trained on Fashion-MNIST, MIT, Zalando SE'


def read_manifest():
    path = os.path.join(WEIGHTS, 'manifest.json')
    if not os.path.exists(path):
        return {}
    with open(path) as f:
        return json.load(f)


def write_manifest(manifest):
    path = os.path.join(WEIGHTS, 'manifest.json')
    with open(path + '.part', 'w') as f:
        f.write(json.dumps(manifest, indent=2, ensure_ascii=False) + '\n')
    os.replace(path + '.part', path)


def write_png(path, gray):
    """gray: uint8 [H, W]"""
    h, w = gray.shape
    raw = b''.join(b'\0' + row.tobytes() for row in gray)

    def chunk(kind, body):
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

    with open(path, 'wb') as f:
        f.write(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, 0, 0, 0, 0))
                + chunk(b'IDAT', zlib.compress(raw, 9)) + chunk(b'IEND', b''))


def sample_grid(f, path, seed, rows=8, columns=16, scale=2):
    """One-step samples f(z, 80), not selected."""
    z = 80 * torch.randn((rows * columns, 1, 28, 28), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        x = ((f(z, 80.0).clamp(-1, 1) + 1) / 2 * 255).round().byte().view(rows, columns, 28, 28)
    x = x.permute(0, 2, 1, 3).reshape(rows * 28, columns * 28)
    write_png(path, x.repeat_interleave(scale, 0).repeat_interleave(scale, 1).numpy())


def export(args):
    """Writes both networks and their entries in the manifest. Measured quality belongs to other bytes and is dropped."""
    (f, net), state, saved = shipped(args)
    dtype = np.float16 if args.dtype == 'f16' else np.float32
    manifest = read_manifest()

    def write(name, tensors):
        file = name + '.safetensors'
        path = os.path.join(WEIGHTS, file)
        safetensors_io.save(path, {k: v.astype(dtype) for k, v in tensors.items()}, {'format': 'pt' if name == CLASSIFIER else 'flax'})
        with open(path, 'rb') as fh:
            data = fh.read()
        return dict(file=file, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    edm, when = Checkpoint(args, 'edm').load(), time.strftime('%Y-%m-%d')
    script = 'weights/train/fashion_mnist.py'

    def options(state, *names):
        return ' '.join(f'--{n.replace("_", "-")} {state["args"][n]:g}' for n in names)

    stages = [
        dict(stage='edm', command=f'{script} edm {options(edm, "steps", "batch", "lr", "ema", "sigma_mean", "sigma_std", "seed")}',
             steps=edm['step'], images=edm['step'] * edm['args']['batch'], seconds=round(edm['seconds'])),
    ]
    if args.model == 'consistency':
        stages += [
            dict(stage='trajectories', command=f'{script} trajectories --seed 1', images=state['pool']),
            dict(stage='consistency', command=f'{script} consistency {options(state, "steps", "minutes", "batch", "lr", "ema", "top", "huber", "ssim", "seed")}',
                 steps=state['step'], images=state['step'] * state['args']['batch'], seconds=round(state['seconds'])),
        ]
    manifest[CONSISTENCY] = dict(
        **write(CONSISTENCY, export_flax(f.net)), kind='ncsnpp', config=f.net.config, sigma=dict(min=0.002, max=80, data=0.5),
        dtype=args.dtype, range='[-1,1]', preprocessing='pixels / 127.5 - 1, NHWC', parameters=count_parameters(f.net),
        multiply_adds=count_macs(f.net),
        training=dict(method='consistency distillation along the probability-flow trajectories of an EDM denoiser',
                      stages=stages, data='Fashion-MNIST, the 60,000 training images', seed=1,
                      precision='bfloat16 convolutions, float32 weights', hardware=HARDWARE, date=when),
        quality={}, licence=LICENCE)
    a = saved['args']
    manifest[CLASSIFIER] = dict(
        **write(CLASSIFIER, {k: v.numpy() for k, v in net.state_dict().items() if v.is_floating_point()}),
        kind='wide_resnet', config=WRN, dtype=args.dtype, range='[0,1]', preprocessing='pixels / 255, no normalisation',
        classes=CLASSES, parameters=count_parameters(net),
        training=dict(command=f'{script} classifier {options(saved, "epochs", "batch", "lr", "seed")}',
                      data='Fashion-MNIST, the 60,000 training images; flips, shifts, some blurred or noisy', seed=a['seed'],
                      steps=saved['epoch'] * (60000 // a['batch']), images=saved['epoch'] * (60000 // a['batch']) * a['batch'],
                      seconds=round(saved['seconds']), precision='bfloat16 convolutions, float32 weights', hardware=HARDWARE, date=when),
        quality={}, licence=LICENCE)
    write_manifest(manifest)
    for name in (CONSISTENCY, CLASSIFIER):
        print(name, manifest[name]['bytes'], manifest[name]['sha256'])


def from_files():
    """The networks as shipped."""
    f, net = Preconditioned(NCSNpp(**NCSNPP)), WideResNet(**WRN)
    import_flax(f.net, {k: v.astype(np.float32) for k, v in safetensors_io.load(os.path.join(WEIGHTS, CONSISTENCY + '.safetensors'))[0].items()})
    tensors = safetensors_io.load(os.path.join(WEIGHTS, CLASSIFIER + '.safetensors'))[0]
    missing = net.load_state_dict({k: torch.from_numpy(v.astype(np.float32)) for k, v in tensors.items()}, strict=False)
    assert all('num_batches' in k for k in missing.missing_keys) and not missing.unexpected_keys, missing
    return f.eval().requires_grad_(False), net.eval().requires_grad_(False)


def quality(args):
    """Measures the shipped files with the manifest's preset and notes the results in the manifest."""
    f, net = from_files()
    manifest = read_manifest()
    preset = manifest['presets']['fashion-mnist']
    x, y = fashion_mnist(args.data, 'test')
    q = dict(testAccuracy=share(torch.cat([net(a).argmax(1) for a in x.split(500)]) == y))
    x, y = select(args)
    options = {k: preset[k] for k in ('k', 'iterations', 'lr', 'alpha', 'lambda')}
    q['attacks'] = []
    r = dict(measuredOn=f'test images {args.skip} to {args.skip + len(x) - 1}', command=f'weights/train/fashion_mnist.py quality --n {args.n} --restore {args.restore}',
             purification=dict(options=options))
    for eps in (preset['eps'], preset['eps'] / 2):
        adv = cmap.pgd(net, x, y, eps, preset['pgdSteps'], preset['pgdStep'] * eps / preset['eps'], torch.Generator().manual_seed(args.seed))
        label = f'{eps * 255:g}/255'
        q['attacks'].append(dict(attack=f'PGD-{preset["pgdSteps"]}, L-infinity {label}, random start, white box on the bare classifier',
                                 **share(net(adv).argmax(1) == y)))
        out, _ = purify(f, adv, options, args.seed)
        r['purification'][f'attacked {label}'] = share(judge(net, out, y))
        print(label, q['attacks'][-1], r['purification'][f'attacked {label}'], flush=True)
    q['bareClean'] = share(net(x).argmax(1) == y)
    out, _ = purify(f, x, options, args.seed)
    r['purification']['clean'] = share(judge(net, out, y))
    print('clean', q['bareClean'], r['purification']['clean'], flush=True)
    # How well, and how fast, clean images are restored: each with the preset's step size.
    few = x[:args.restore]
    r['restoration'] = []
    for t in sorted({options['iterations'], 50, 100, 200}):
        out, trace = purify(f, few, {**options, 'iterations': t}, args.seed)
        last = trace[:, -1].mean(0).tolist()
        with torch.no_grad():
            same = share(judge(net, out, net(few).argmax(1)))
        r['restoration'].append(dict(iterations=t, mae=round(last[1], 4), ssim=round(last[2], 4), constraint=round(last[3], 1), sameClass=same))
    print(json.dumps(r['restoration'], indent=1))
    manifest = read_manifest()
    manifest[CONSISTENCY]['quality'], manifest[CLASSIFIER]['quality'] = r, q
    write_manifest(manifest)


def samples(args):
    f, _ = from_files()
    os.makedirs(os.path.join(ROOT, 'docs', 'images'), exist_ok=True)
    sample_grid(f, os.path.join(ROOT, 'docs', 'images', 'fashion-mnist-samples.png'), args.seed)


# ---------------------------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(dest='command', required=True)

    def command(name, run, **defaults):
        p = sub.add_parser(name)
        p.set_defaults(run=run)
        p.add_argument('--dir', default='out/train', help='checkpoints (default: %(default)s)')
        p.add_argument('--data', default='/usr/share/datasets/fashion-mnist', help='the four IDX files (default: %(default)s)')
        p.add_argument('--seed', type=int, default=1)
        p.add_argument('--threads', type=int, default=1)
        p.add_argument('--float32', dest='bf16', action='store_false', help='no bfloat16 in convolutions')
        for k, v in defaults.items():
            p.add_argument('--' + k.replace('_', '-'), type=type(v), default=v, help='default: %(default)s')
        return p

    command('classifier', train_classifier, epochs=16, batch=128, lr=0.1)
    command('edm', train_edm, steps=4000, batch=64, lr=1.5e-3, ema=0.998, sigma_mean=-0.8, sigma_std=1.4)
    command('trajectories', make_trajectories, shards=900, first=0, stride=1, batch=128, noisy=5)
    command('consistency', train_consistency, steps=12000, minutes=25.0, batch=64, lr=1.5e-3, ema=0.998, top=0.4, huber=0.03, ssim=0.2)
    p = command('evaluate', evaluate, model='consistency', n=64, skip=0, eps=16.0, pgd_steps=40, pgd_step=0.0, only='both',
                kt='4x40', lr='2', alpha='2')
    p.add_argument('--lambda', default='5e-4')
    p.add_argument('--half', action='store_true', help='round weights to float16 first')
    command('export', export, model='consistency', dtype='f16')
    command('quality', quality, n=200, skip=0, restore=16)
    command('samples', samples)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run = args.run
    del args.run
    run(args)


if __name__ == '__main__':
    main()
