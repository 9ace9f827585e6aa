"""What the training scripts share: all but a data set's own description and its classifier's recipe.

A subcommand is a function of (task, args): the data set and its networks, and the parsed options.
"""
import argparse
import copy
import hashlib
import json
import math
import os
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass
from typing import Callable

import numpy as np
import torch

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..'))
sys.path.insert(0, os.path.join(ROOT, 'reference'))
import cmap  # noqa: E402
import safetensors_io  # noqa: E402
from ncsnpp import NCSNpp, Preconditioned, count_macs, count_parameters, export_flax, import_flax  # noqa: E402
from wide_resnet import WideResNet  # noqa: E402

LEVELS = 18  # of the Karras grid, rho 7, as in the published consistency distillation
WEIGHTS = os.path.join(ROOT, 'weights')
HARDWARE = 'two CPU cores (AMD EPYC, Zen 4) shared with other work, PyTorch ' + torch.__version__.split('a')[0]


@dataclass
class Task:
    """A data set and the two networks trained on it. Images are [N, C, H, W] in [0, 1]."""
    name: str  # begins the names of the shipped files, and is the preset's
    title: str
    script: str
    load: Callable  # (directory, 'train' or 'test') -> images, labels
    ncsnpp: dict
    wrn: dict
    classes: list
    licence: str
    classifier_options: list  # those noted in the manifest
    augmentation: str  # of the classifier's training images, in words
    mirror: bool = False  # the generator's training images are mirrored at random

    @property
    def consistency_file(self):
        return self.name + '-consistency'

    @property
    def classifier_file(self):
        return self.name + '-wrn'

    @property
    def denoiser_file(self):
        return self.name + '-edm'

    @property
    def robust_file(self):
        return self.name + '-wrn-robust'

    def generator(self):
        return Preconditioned(NCSNpp(**self.ncsnpp))


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

    def need(self):
        if not os.path.exists(self.path):
            raise SystemExit(f'{self.path} does not exist: train it first, or name its folder with --dir')
        return self.load()

    def save(self, **state):
        torch.save(state, self.path + '.part')
        os.replace(self.path + '.part', self.path)


def learning_rate(step, total, peak, warm_up=100):
    return peak * min(1, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(1, step / total)))


@torch.no_grad()
def update_average(average, net, step, decay):
    """Of parameters and of running statistics, where there are any."""
    d = min(decay, (1 + step) / (10 + step))
    for a, p in zip(average.state_dict().values(), net.state_dict().values()):
        if a.is_floating_point():
            a.lerp_(p, 1 - d)


@torch.no_grad()
def accuracy(net, x, y):
    net.eval()
    return sum((net(a).argmax(1) == b).sum().item() for a, b in zip(x.split(500), y.split(500))) / len(y)


# ---------------------------------------------------------------------------------------------------------------------


def load_generator(task, args, name):
    f = task.generator()
    state = Checkpoint(args, name).need()
    f.load_state_dict(state['average'])
    return f.eval(), state


def mirrored(task, x, g):
    """Half of the images, where the task allows it."""
    return torch.where(torch.rand((len(x), 1, 1, 1), generator=g) < 0.5, x.flip(3), x) if task.mirror else x


def finite(loss, step):
    if not math.isfinite(loss):
        raise SystemExit(f'loss is {loss} at step {step}; the last checkpoint is kept')
    return loss


def train_edm(task, args):
    """ln sigma ~ N(mean, std^2), weight (sigma^2 + sd^2) / (sigma sd)^2, Adam, exponential moving average."""
    x = task.load(args.data, 'train')[0] * 2 - 1
    torch.manual_seed(args.seed)
    f = task.generator()
    average = copy.deepcopy(f)
    opt = torch.optim.Adam(f.parameters(), args.lr, betas=(0.9, 0.99))
    check = Checkpoint(args, 'edm')
    step, seconds = 0, 0.0
    if (state := check.load()):
        f.load_state_dict(state['net'])
        average.load_state_dict(state['average'])
        opt.load_state_dict(state['opt'])
        step, seconds = state['step'], state['seconds']
    print(f'{count_parameters(f.net):,} parameters, {count_macs(f.net):,} multiply-adds a forward pass', flush=True)
    progress, mean_loss, begin = Progress('edm', step, args.steps), None, time.time()
    while step < args.steps:
        g = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        clean = x[torch.randint(len(x), (args.batch,), generator=g)]
        sigma = torch.exp(torch.randn(args.batch, generator=g) * args.sigma_std + args.sigma_mean).clamp(0.002, 80)
        noise = torch.randn(clean.shape, generator=g)
        clean = mirrored(task, clean, g)
        noisy = clean + sigma[:, None, None, None] * noise
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
        now = finite(loss.item(), step)
        mean_loss = now if mean_loss is None else 0.99 * mean_loss + 0.01 * now
        if step % 50 == 0:
            progress(step, loss=mean_loss)
        if step % 250 == 0 or step == args.steps:
            check.save(net=f.state_dict(), average=average.state_dict(), opt=opt.state_dict(), step=step,
                       seconds=seconds + time.time() - begin, args=vars(args))


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


def shard_options(path):
    """The file beside a shard that says how it was made, which `export` tells"""
    return os.path.splitext(path)[0] + '.json'


def make_trajectories(task, args):
    """Shards of float16 states [B, 18, C H W], ascending sigma. Half start from noise at 80 and run down; half start
    from training images, with true noise up to level `noisy`, and run up: their origin is the image itself."""
    f, _ = load_generator(task, args, 'edm')
    x = task.load(args.data, 'train')[0] * 2 - 1
    grid, out = karras_grid(), os.path.join(args.dir, 'trajectories')
    os.makedirs(out, exist_ok=True)
    progress = Progress('trajectories', args.first, args.shards)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(args.seed))
    for shard in range(args.first, args.shards, args.stride):
        path = os.path.join(out, f'{shard:05d}.npy')
        if os.path.exists(path):
            continue
        g = torch.Generator().manual_seed(args.seed * 7919 + shard)
        noise = torch.randn((args.batch, *x.shape[1:]), generator=g)
        with low_precision(args):
            if shard % 2:
                states = trajectory(f, 80 * noise, grid.flip(0)).flip(0)
            else:
                i = shard // 2 * args.batch
                images = mirrored(task, x[order[torch.arange(i, i + args.batch) % len(x)]], g)
                low = images + grid[:args.noisy, None, None, None, None].float() * noise
                states = torch.cat([images[None], low[1:], trajectory(f, images + grid[args.noisy].item() * noise, grid[args.noisy:])])
        np.save(path + '.part.npy', states.transpose(0, 1).flatten(2).half().numpy())
        with open(shard_options(path), 'w') as fh:
            json.dump({'from': 'noise' if shard % 2 else 'images', 'batch': args.batch, 'seed': args.seed, **({} if shard % 2 else {'noisy': args.noisy})}, fh)
        os.replace(path + '.part.npy', path)
        if shard // args.stride % 10 == 0:
            progress(shard + 1, latent_std=states[-1].std().item(), image_std=states[0].std().item())


def shard_kind(path):
    """The options a shard was made with, as those of a command"""
    try:
        with open(shard_options(path)) as fh:
            made = json.load(fh)
    except FileNotFoundError:
        return 'options not kept'
    start = made.pop('from')
    return ' '.join(f'--{k} {v}' for k, v in made.items()) + f', from {start}'


def train_consistency(task, args):
    """f(x_t, t) is drawn to the origin of x_t's trajectory: pseudo-Huber distance plus 1 - SSIM. The level 80, the one
    that purification uses, gets a share of its own."""
    grid = karras_grid().float()
    torch.manual_seed(args.seed)
    f, _ = load_generator(task, args, 'edm')
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
    # The runs that made the checkpoint: the first step and the options of each.
    runs = [r for r in (state or {}).get('runs', [dict(state['args'], first=0)] if state else []) if r['first'] < step]
    if not runs or any(runs[-1].get(k) != v for k, v in vars(args).items() if k not in ('dir', 'data', 'threads')):
        runs.append(dict(vars(args), first=step))
    shape = (args.batch, task.ncsnpp['num_channels'], task.ncsnpp['image_size'], task.ncsnpp['image_size'])
    pool, kinds, seen, where = [], {}, set(), os.path.join(args.dir, 'trajectories')
    progress, mean_loss, begin = Progress('consistency', step, args.steps), {}, time.time()

    def save():
        check.save(net=f.state_dict(), average=average.state_dict(), opt=opt.state_dict(), step=step,
                   seconds=seconds + time.time() - begin, pool=sum(map(len, pool)), kinds=kinds, runs=runs, args=vars(args))

    while True:
        # Ends after --steps or --minutes, whichever comes first; the learning rate follows.
        done = max(step / args.steps, (seconds + time.time() - begin) / 60 / args.minutes)
        if done >= 1:
            break
        if step % 100 == 0 or not pool:
            for name in sorted(set(os.listdir(where) if os.path.isdir(where) else []) - seen):
                if not name.endswith('.npy') or name.endswith('.part.npy'):
                    continue
                seen.add(name)
                pool.append(np.load(os.path.join(where, name), mmap_mode='r'))
                kind = shard_kind(os.path.join(where, name))
                kinds[kind] = kinds.get(kind, 0) + 1
            if not pool:
                raise SystemExit(f'{where} is empty: run `trajectories` first')
        g = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        shard = torch.randint(len(pool), (args.batch,), generator=g).tolist()
        row = torch.randint(len(pool[0]), (args.batch,), generator=g).tolist()
        # Triangular towards large sigma, and `--top` of the batch at 80.
        u = torch.rand(args.batch, generator=g).sqrt()
        level = (1 + u * (LEVELS - 1)).long().clamp(1, LEVELS - 1)
        level[:int(args.top * args.batch)] = LEVELS - 1
        clean, noisy = (torch.from_numpy(np.stack([pool[s][r, i] for s, r, i in zip(shard, row, levels)])).float().view(shape)
                        for levels in ([0] * args.batch, level.tolist()))
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
        now = dict(loss=finite(loss.item(), step), distance80=d[top].mean().item(), ssim80=1 - s[top].mean().item(), rest=d[~top].mean().item())
        mean_loss = {k: 0.98 * mean_loss.get(k, v) + 0.02 * v for k, v in now.items()}
        if step % 50 == 0:
            progress(step, **mean_loss, pool=len(pool))
        if step % 250 == 0:
            save()
    if pool:  # a finished run has read none, and has nothing to add
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


def classifier(task, args, name):
    net = WideResNet(**task.wrn)
    saved = Checkpoint(args, name).need()
    net.load_state_dict(saved.get('average', saved['net']))
    return net.eval().requires_grad_(False), saved


def shipped(task, args, half=False):
    """The two networks of the latest checkpoints, optionally rounded to float16."""
    f, state = load_generator(task, args, args.model)
    net, saved = classifier(task, args, 'classifier')
    nets = [f.eval().requires_grad_(False), net.eval().requires_grad_(False)]
    if half:
        for m in nets:
            for t in m.state_dict().values():
                if t.is_floating_point():
                    t.copy_(t.half().float())
    return nets, state, saved


def purify(f, x, options, seed, batch=16):
    """-> images [N, K, C, H, W], trace [N, T, 4]"""
    images, traces = [], []
    for i, part in enumerate(x.split(batch)):
        g = torch.Generator().manual_seed(seed * 1009 + i)
        z0 = 80 * torch.randn((len(part), options['k'], *x.shape[1:]), generator=g)
        out, _, trace = cmap.purify(f, part, z0, options['iterations'], options['lr'], options['alpha'], options['lambda'])
        images.append(out)
        traces.append(trace)
    return torch.cat(images), torch.cat(traces)


def judge(net, images, y):
    with torch.no_grad():
        logits = net(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    return cmap.hard_vote(logits) == y


def select(task, args):
    """The first n test images from --skip on."""
    x, y = task.load(args.data, 'test')
    return x[args.skip:args.skip + args.n], y[args.skip:args.skip + args.n]


def attacked(net, x, y, args):
    step = args.pgd_step or 2.5 * args.eps / args.pgd_steps
    return cmap.pgd(net, x, y, args.eps / 255, args.pgd_steps, step / 255, torch.Generator().manual_seed(args.seed))


def evaluate(task, args):
    """Bare and purified accuracy; several values of an option, comma-separated, are swept."""
    (f, net), state, _ = shipped(task, args, args.half)

    def generate(z, sigma):
        # To compare settings bfloat16 will do, at half the cost; what the weights are worth is measured by `quality`, in float32.
        with low_precision(args):
            return f(z, sigma).float()

    x, y = select(task, args)
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
                out, trace = purify(generate, images, options, args.seed)
                last = trace[:, -1].mean(0).tolist()
                text.append(f'{name} {share(judge(net, out, y))} mae {last[1]:.4f} ssim {last[2]:.4f} constraint {last[3]:.1f}')
        print(options, f'{time.time() - begin:.0f} s', *text, sep='\n    ', flush=True)


# ---------------------------------------------------------------------------------------------------------------------

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


def write_png(path, pixels):
    """pixels: uint8 [H, W, 1 or 3]"""
    h, w, c = pixels.shape
    raw = b''.join(b'\0' + row.tobytes() for row in pixels)

    def chunk(kind, body):
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

    with open(path, 'wb') as f:
        f.write(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, {1: 0, 3: 2}[c], 0, 0, 0))
                + chunk(b'IDAT', zlib.compress(raw, 9)) + chunk(b'IEND', b''))


def write_grid(path, x, columns=16, scale=2):
    """x [N, C, H, W] in [-1, 1], N a multiple of `columns`"""
    n, c, h, w = x.shape
    pixels = ((x.clamp(-1, 1) + 1) / 2 * 255).round().byte().view(n // columns, columns, c, h, w)
    pixels = pixels.permute(0, 3, 1, 4, 2).reshape(n // columns * h, columns * w, c)
    write_png(path, pixels.repeat_interleave(scale, 0).repeat_interleave(scale, 1).numpy())


def written(task, args, name, tensors):
    """Writes a shipped file. -> what the manifest says of its bytes"""
    file, dtype = name + '.safetensors', np.float16 if args.dtype == 'f16' else np.float32
    path = os.path.join(WEIGHTS, file)
    safetensors_io.save(path, {k: v.astype(dtype) for k, v in tensors.items()}, {'format': 'flax' if name in (task.consistency_file, task.denoiser_file) else 'pt'})
    with open(path, 'rb') as fh:
        data = fh.read()
    print(name, len(data), digest := hashlib.sha256(data).hexdigest())
    return dict(file=file, bytes=len(data), sha256=digest)


def command_line(task, command, values, names):
    options = (f'--{n.replace("_", "-")} ' + (values[n] if isinstance(values[n], str) else f'{values[n]:g}') for n in names)
    return ' '.join([task.script, command, *options])


def commit():
    """Of the script that exports, '+' where the work tree differs."""
    def git(*words):
        return subprocess.run(['git', '-C', WEIGHTS, *words], capture_output=True, text=True).stdout.strip()
    return git('rev-parse', '--short=12', 'HEAD') + ('+' if git('status', '--porcelain', '--', 'train', '../reference') else '')


def training_data(task, args):
    images = len(task.load(args.data, 'train')[1])
    return images, f'{task.title}, the {images:,} training images'


def cycle_commands(task, command, cycles, options, reached):
    """The commands of a classifier's cycles, of which the last reached epoch `reached`"""
    ends = [*(c['first'] for c in cycles[1:]), reached]
    return ', then '.join(
        # fgsm-rs: as it was before there was a choice
        command_line(task, command, {'method': 'fgsm-rs', **c}, options) + (f' (stopped after epoch {end})' if end < c['epochs'] else '')
        for c, end in zip(cycles, ends))


def classifier_entry(task, args, command, net, saved):
    images, data = training_data(task, args)
    cycles = saved.get('cycles', [saved['args']])  # a run continued with a larger --epochs has several
    seen = saved['epoch'] * (images // cycles[0]['batch']) * cycles[0]['batch']
    name, options = (task.robust_file, [*task.classifier_options, 'eps', 'method']) if command == 'robust' else (task.classifier_file, task.classifier_options)
    training = dict(command=cycle_commands(task, command, cycles, options, saved['epoch']))
    if (start := saved.get('start')):  # the cycles and epochs of the network that this one goes on from
        training['start'] = cycle_commands(task, 'classifier', start['cycles'], task.classifier_options, start['epoch'])
    return name, dict(
        **written(task, args, name, {k: v.numpy() for k, v in net.state_dict().items() if v.is_floating_point()}),
        kind='wide_resnet', config=task.wrn, dtype=args.dtype, range='[0,1]', preprocessing='pixels / 255, no normalisation',
        classes=task.classes, parameters=count_parameters(net),
        training=dict(training, commit=commit(),
                      data=f'{data}; {task.augmentation}', seed=saved['args']['seed'],
                      steps=seen // cycles[0]['batch'], images=seen, seconds=round(saved['seconds']),
                      precision='bfloat16 convolutions, float32 weights', hardware=HARDWARE, date=time.strftime('%Y-%m-%d')),
        quality={}, licence=task.licence)


def edm_stage(task, state):
    names = ['steps', 'batch', 'lr', 'ema', 'sigma_mean', 'sigma_std', 'seed']
    return dict(stage='edm', command=command_line(task, 'edm', state['args'], names), steps=state['step'],
                images=state['step'] * state['args']['batch'], seconds=round(state['seconds']))


def generator_entry(task, args, name, f, method, stages, edm):
    _, data = training_data(task, args)
    denoiser = dict(objective='edm') if name == task.denoiser_file else {}
    return dict(
        **written(task, args, name, export_flax(f.net)), kind='ncsnpp', config=f.net.config, **denoiser, sigma=dict(min=0.002, max=80, data=0.5),
        dtype=args.dtype, range='[-1,1]', preprocessing='pixels / 127.5 - 1, NHWC', parameters=count_parameters(f.net),
        multiply_adds=count_macs(f.net),
        training=dict(method=method, stages=stages, commit=commit(), data=data + (', half of them mirrored' if task.mirror else ''), seed=edm['args']['seed'],
                      precision='bfloat16 convolutions, float32 weights', hardware=HARDWARE, date=time.strftime('%Y-%m-%d')),
        quality={}, licence=task.licence)


def export(task, args):
    """Writes the consistency model and the classifier, or the one that --model names (edm, robust), and the entries in the
    manifest. Measured quality belongs to other bytes and is dropped."""
    manifest = read_manifest()
    if args.model == 'edm':
        f, state = load_generator(task, args, 'edm')
        manifest[task.denoiser_file] = generator_entry(task, args, task.denoiser_file, f, 'EDM, a denoiser', [edm_stage(task, state)], state)
        return write_manifest(manifest)
    if args.model == 'robust':
        net, saved = classifier(task, args, 'robust')
        name, manifest[name] = classifier_entry(task, args, 'robust', net, saved)
        return write_manifest(manifest)
    (f, net), state, saved = shipped(task, args)
    edm = Checkpoint(args, 'edm').need()
    names = ['steps', 'minutes', 'batch', 'lr', 'ema', 'top', 'huber', 'ssim', 'seed']
    stages = [
        edm_stage(task, edm),
        dict(stage='trajectories', command=f'{task.script} trajectories', images=state['pool'], shards=state.get('kinds', {})),
        dict(stage='consistency', command=', then '.join(command_line(task, 'consistency', r, names) for r in state.get('runs', [state['args']])),
             steps=state['step'], images=state['step'] * state['args']['batch'], seconds=round(state['seconds'])),
    ]
    manifest[task.consistency_file] = generator_entry(
        task, args, task.consistency_file, f, 'consistency distillation along the probability-flow trajectories of an EDM denoiser', stages, edm)
    name, manifest[name] = classifier_entry(task, args, 'classifier', net, saved)
    write_manifest(manifest)


def classifier_from_file(task, name):
    net = WideResNet(**task.wrn)
    tensors = safetensors_io.load(os.path.join(WEIGHTS, name + '.safetensors'))[0]
    missing = net.load_state_dict({k: torch.from_numpy(v.astype(np.float32)) for k, v in tensors.items()}, strict=False)
    assert all('num_batches' in k for k in missing.missing_keys) and not missing.unexpected_keys, missing
    return net.eval().requires_grad_(False)


def generator_from_file(task, name):
    f = task.generator()
    import_flax(f.net, {k: v.astype(np.float32) for k, v in safetensors_io.load(os.path.join(WEIGHTS, name + '.safetensors'))[0].items()})
    return f.eval().requires_grad_(False)


def from_files(task):
    """The networks as shipped."""
    f = generator_from_file(task, task.consistency_file)
    return f, classifier_from_file(task, task.classifier_file)


@torch.no_grad()
def denoiser_quality(task, args):
    """Mean squared error of denoised test images in [-1, 1], by noise level."""
    f, (x, _), g = generator_from_file(task, task.denoiser_file), select(task, args), torch.Generator().manual_seed(args.seed)
    errors = {}
    for sigma in (0.05, 0.1, 0.2, 0.4, 1.0, 3.0, 10.0, 80.0):
        clean = 2 * x - 1
        out = torch.cat([f(part + sigma * torch.randn(part.shape, generator=g), torch.full((len(part),), sigma), t_min=0.0)
                         for part in clean.split(250)])
        errors[f'{sigma:g}'] = float(f'{((out - clean) ** 2).mean():.3g}')
    print(errors)
    return dict(measuredOn=f'test images {args.skip} to {args.skip + len(x) - 1}', denoisedMse=errors)


def attack_quality(net, x, y, eps, preset, args):
    """-> what the preset's PGD leaves, for the manifest; the adversarial images"""
    step, g = preset['pgdStep'] * eps / preset['eps'], torch.Generator().manual_seed(args.seed)
    adv = torch.cat([cmap.pgd(net, a, b, eps, preset['pgdSteps'], step, g) for a, b in zip(x.split(250), y.split(250))])
    attack = f'PGD-{preset["pgdSteps"]}, L-infinity {eps * 255:g}/255, random start, white box on the bare classifier'
    right = torch.cat([net(a).argmax(1) for a in adv.split(250)]) == y
    return dict(attack=attack, **share(right)), adv


def quality(task, args):
    """Measures the shipped files with the manifest's preset and notes the results in the manifest."""
    manifest = read_manifest()
    preset = manifest['presets'].get(task.name)
    if not preset:
        raise SystemExit(f'weights/manifest.json has no preset {task.name}: choose one with `evaluate`')
    if args.model == 'edm':
        manifest[task.denoiser_file]['quality'] = dict(denoiser_quality(task, args), command=f'{task.script} quality --model edm --n {args.n}')
        return write_manifest(manifest)
    robust = args.model == 'robust'
    f, net = (None, classifier_from_file(task, task.robust_file)) if robust else from_files(task)
    x, y = task.load(args.data, 'test')
    q = dict(testAccuracy=share(torch.cat([net(a).argmax(1) for a in x.split(500)]) == y))
    x, y = select(task, args)
    if robust:
        q['attacks'] = [attack_quality(net, x, y, preset['eps'], preset, args)[0]]
        manifest[task.robust_file]['quality'] = dict(q, measuredOn=f'test images {args.skip} to {args.skip + len(x) - 1}',
                                                     command=f'{task.script} quality --model robust --skip {args.skip} --n {args.n}')
        print(json.dumps(q, indent=1))
        return write_manifest(manifest)
    options = {k: preset[k] for k in ('k', 'iterations', 'lr', 'alpha', 'lambda')}
    q['attacks'] = []
    r = dict(measuredOn=f'test images {args.skip} to {args.skip + len(x) - 1}', command=f'{task.script} quality --n {args.n} --restore {args.restore}',
             purification=dict(options=options))
    for eps in (preset['eps'], preset['eps'] / 2):
        label = f'{eps * 255:g}/255'
        told, adv = attack_quality(net, x, y, eps, preset, args)
        q['attacks'].append(told)
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
    # Measured by another command on the same bytes.
    known = manifest[task.consistency_file]['quality'].get('frechet')
    manifest[task.consistency_file]['quality'] = r if known is None else dict(r, frechet=known)
    manifest[task.classifier_file]['quality'] = q
    write_manifest(manifest)


@torch.no_grad()
def latents(task, args):
    """What the start of a trajectory (`trajectories --noisy`) keeps of an image, with the shipped files: test images with noise of
    each level are run up to sigma = 80; the latents there should have standard deviation 80 and kurtosis 3, and the classifier
    should know the image after the ODE has run back, and after one step of the consistency model."""
    denoiser, (f, net) = generator_from_file(task, task.denoiser_file), from_files(task)
    x, y = select(task, args)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(args.seed))
    grid = karras_grid()

    def right(images):
        return f'{100 * share(net(((images + 1) / 2).clamp(0, 1)).argmax(1) == y)["accuracy"]:.1f} %'

    print(f'test images {args.skip} to {args.skip + len(x) - 1}: {right(2 * x - 1)} right')
    for noisy in range(1, args.levels + 1):
        with low_precision(args):
            z = trajectory(denoiser, 2 * x - 1 + grid[noisy].item() * noise, grid[noisy:])[-1].float()
            back = trajectory(denoiser, z, grid.flip(0))[-1].float()
        kurtosis = (((z - z.mean()) / z.std()) ** 4).mean().item()
        print(f'noisy {noisy}, sigma {grid[noisy]:.4f}: latents std {z.std().item():.1f}, kurtosis {kurtosis:.2f}; right after the way back '
              f'{right(back)}, after one step {right(f(z, grid[-1].item()))}', flush=True)


@torch.no_grad()
def samples(task, args):
    """128 samples, not selected: one step f(z, 80) of the shipped file or of the checkpoint --model, or Heun's method
    for the denoiser `edm`."""
    f = load_generator(task, args, args.model)[0] if args.model else from_files(task)[0]
    shape = (128, task.ncsnpp['num_channels'], task.ncsnpp['image_size'], task.ncsnpp['image_size'])
    z = 80 * torch.randn(shape, generator=torch.Generator().manual_seed(args.seed))
    x = trajectory(f, z, karras_grid().flip(0))[-1] if args.model == 'edm' else f(z, 80.0)
    path = args.out or os.path.join(ROOT, 'docs', 'images', task.name + '-samples.png')
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    write_grid(path, x)


# ---------------------------------------------------------------------------------------------------------------------


class Commands:
    """The command line: `add` the subcommands, then `run` the one that was named."""

    def __init__(self, doc, directory, data):
        parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.parser, self.directory, self.data = parser, directory, data
        self.sub = parser.add_subparsers(dest='command', required=True)

    def add(self, name, run, **defaults):
        p = self.sub.add_parser(name)
        p.set_defaults(run=run)
        p.add_argument('--dir', default=self.directory, help='checkpoints (default: %(default)s)')
        p.add_argument('--data', **self.data)
        p.add_argument('--seed', type=int, default=1)
        p.add_argument('--threads', type=int, default=1)
        p.add_argument('--float32', dest='bf16', action='store_false', help='no bfloat16 in convolutions')
        for k, v in defaults.items():
            p.add_argument('--' + k.replace('_', '-'), type=type(v), default=v, help='default: %(default)s')
        return p

    def run(self, task):
        args = self.parser.parse_args()
        torch.set_num_threads(args.threads)
        run = args.run
        del args.run  # checkpoints keep the options, not the function
        run(task, args)
