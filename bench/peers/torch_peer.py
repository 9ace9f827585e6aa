"""PyTorch as a peer: reads a JSON request a line, answers a JSON line. Arrays travel through a raw float32 file.

    {"prepare": case, "file": path}  -> {"results": path, "counts": [...]}   the case's outputs, channels last
    {"mode": name, "forward": bool}  -> {"ms": wall, "cpuMs": processor}      one repetition of the prepared case
    {"network": ...}                 -> {}                                    prepares one, see network()
    {"training": ...}                -> {}                                    prepares updates, see training()

The first line it writes is {"version", "modes": [{"name", "about", "kernels"}]}: the ways in which it can repeat a case.
"""
import json
import math
import os
import sys
import time

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', '..', 'reference'))
cuda = torch.cuda.is_available()
device = torch.device('cuda' if cuda else 'cpu')


class Mode:
    """A way to run: threads, TensorFloat-32 (which PyTorch allows in convolutions by default), layout, compiler. The last
    two are for networks alone."""

    def __init__(self, name, about, threads=1, tf32=False, channels_last=False, compile=False):
        self.name, self.about, self.threads, self.tf32 = name, about, threads, tf32
        self.channels_last, self.compile = channels_last, compile

    def enter(self):
        torch.set_num_threads(self.threads)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.tf32

    def placed(self, net):
        return net.to(device, memory_format=torch.channels_last) if self.channels_last else net.to(device)

    def compiled(self, f):
        return torch.compile(f) if self.compile else f


MODES = {m.name: m for m in ([
    Mode('torch fp32', 'CUDA, no TF32'),
    Mode('torch tf32', 'CUDA, TF32', tf32=True),
    Mode('torch tf32 channels_last', 'CUDA, TF32, channels last', tf32=True, channels_last=True),
    Mode('torch tf32 compile', 'CUDA, TF32, channels last, torch.compile', tf32=True, channels_last=True, compile=True),
] if cuda else [Mode(f'torch x{n}', f'{n} thread' + 's' * (n > 1), threads=n) for n in sorted({1, os.cpu_count()})])}


def first(t):
    return t.permute(0, 3, 1, 2).contiguous()


def last(t):
    return t.permute(0, 2, 3, 1)


def hwio(w):
    return w.permute(3, 2, 0, 1).contiguous()


def group_norm(x, scale, bias, c):
    return F.silu(F.group_norm(x, c['groups'], scale, bias, c['eps']))


def attend(q, k, v):
    return torch.softmax(q @ k.transpose(1, 2) * q.shape[2] ** -0.5, -1) @ v


def pulled(f, inputs, dy):
    """The backward pass alone; what the forward pass saved is kept."""
    inputs = [t.requires_grad_(True) for t in inputs]
    y = f(*inputs)
    return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)


def prepare(c, i):
    """-> (the function to time, from its result to a list of channels-last tensors)"""
    op, forward = c['op'], c['pass'] == 'forward'
    if op == 'conv2d':
        x, w = first(i['x']), hwio(i['w'])
        if forward:
            return lambda: F.conv2d(x, w, padding=1), lambda y: [last(y)]
        mask = [c['pass'] == 'input-grad', c['pass'] == 'weight-grad', False]
        dy = first(i['dy'])

        def run():
            return torch.ops.aten.convolution_backward(
                dy, x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask)

        return run, lambda g: [last(g[0])] if mask[0] else [g[1].permute(2, 3, 1, 0)]
    if op == 'matmul':
        return lambda: i['a'] @ i['b'], lambda y: [y]
    if op == 'group-norm':
        x = first(i['x'])
        if forward:
            return lambda: group_norm(x, i['scale'], i['bias'], c), lambda y: [last(y)]
        return (pulled(lambda t: group_norm(t, i['scale'], i['bias'], c), [x], first(i['dy'])),
                lambda g: [last(g[0])])
    if op == 'attention':
        qkv = [i['q'], i['k'], i['v']]
        if forward:
            return lambda: attend(*qkv), lambda y: [y]
        return pulled(attend, qkv, i['dy']), list
    raise ValueError(f'no {op}')


def load(c, path):
    flat = np.fromfile(path, np.float32)
    tensors, at = {}, 0
    for name, shape in c['inputs'].items():
        n = int(np.prod(shape))
        tensors[name] = torch.from_numpy(flat[at:at + n].reshape(shape).copy()).to(device)
        at += n
    return tensors


def wait():
    if cuda:
        torch.cuda.synchronize()


def timed(run, mode, runs=1):
    mode.enter()
    wait()
    cpu, start = time.process_time(), time.perf_counter()
    for _ in range(runs):
        run()
    wait()
    return {'ms': (time.perf_counter() - start) * 1000 / runs, 'cpuMs': (time.process_time() - cpu) * 1000 / runs}


def at_once(run, mode):
    """How many runs to time at once, as src/kernels/tune.ts has it: ten milliseconds of them on a card."""
    if not cuda:
        return 1
    timed(run, mode)
    return max(1, min(1000, math.ceil(10 / timed(run, mode, 8)['ms'])))


def network(r, mode):
    """-> a function: one forward and backward pass of an NCSN++, or one CMAP iteration on it."""
    import cmap
    import ncsnpp
    mode.enter()
    net = mode.placed(ncsnpp.NCSNpp(**r['config']).eval().requires_grad_(False))
    f = mode.compiled(ncsnpp.Preconditioned(net))
    size, channels = net.config['image_size'], net.config['num_channels']
    z = torch.randn(1, r['k'], channels, size, size, device=device) * 80
    if r['iteration']:
        x = torch.rand(1, channels, size, size, device=device)
        return lambda: cmap.purify(f, x, z, iterations=1)

    def both():
        u = z[0].clone().requires_grad_(True)
        if mode.channels_last:
            u = u.contiguous(memory_format=torch.channels_last).detach().requires_grad_(True)
        y = f(u, 80.0).clamp(-1, 1)
        return torch.autograd.grad(y, u, y.detach())

    return both


def training(r, mode):
    """-> a function: so many updates of an EDM denoiser, a consistency model or a classifier, images already on the device."""
    import ncsnpp
    import wide_resnet
    mode.enter()
    classifier = r['task'] == 'classifier'
    net = mode.placed((wide_resnet.WideResNet if classifier else ncsnpp.NCSNpp)(**r['config']).train())
    f = mode.compiled(net if classifier else ncsnpp.Preconditioned(net, 0.0))
    size, channels = net.config['image_size'], net.config['in_channels' if classifier else 'num_channels']
    y = torch.rand(r['batch'], channels, size, size, device=device)
    if mode.channels_last:
        y = y.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(r['batch'], device=device) % 10
    trained = [p for p in net.parameters() if p.requires_grad]
    averages = [[p.detach().clone() for p in trained] for _ in range(r['averages'])]
    optimiser = {'adam': torch.optim.Adam, 'radam': torch.optim.RAdam,
                 'sgd': lambda p, lr: torch.optim.SGD(p, lr, .9, weight_decay=5e-4, nesterov=True)}[r['optimiser']](trained, lr=1e-4)

    def loss():
        if classifier:
            return F.cross_entropy(f(y), labels, label_smoothing=r['smoothing'])
        s = torch.exp(torch.randn(len(y), device=device) * r['log_std'] + r['log_mean'])
        t, n = s[:, None, None, None], torch.randn_like(y)
        d = f(y + t * n, s)
        if r['task'] == 'edm':
            return ((s ** 2 + .25) / (s * .5) ** 2 * ((d - y) ** 2).mean((1, 2, 3))).mean()
        with torch.no_grad():
            target = f(y + .75 * t * n, .75 * s)
        return ((((d - target) ** 2).sum((1, 2, 3)) + 1e-12).sqrt() / (.25 * s)).mean()

    def run():
        for _ in range(r['updates']):
            optimiser.zero_grad(set_to_none=True)
            loss().backward()
            optimiser.step()
            with torch.no_grad():
                for average in averages:
                    torch._foreach_mul_(average, .999)
                    torch._foreach_add_(average, trained, alpha=.001)

    return run


def main():
    modes = [{'name': m.name, 'about': m.about, 'kernels': not m.channels_last} for m in MODES.values()]
    print(json.dumps({'version': torch.__version__, 'modes': modes}), flush=True)
    run = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if 'prepare' in request:
                case, back = prepare(request['prepare'], load(request['prepare'], request['file']))
                outputs = [t.detach().cpu().contiguous().numpy() for t in back(case())]
                path = request['file'] + '.out'
                np.concatenate([o.ravel() for o in outputs]).tofile(path)
                answer = {'results': path, 'counts': [o.size for o in outputs]}
                run = {name: case for name in MODES}
            elif 'network' in request or 'training' in request:
                make = network if 'network' in request else training
                asked, run, answer = request.get('network', request.get('training')), {}, {}
            else:
                name = request['mode']
                if name not in run:
                    run[name] = make(asked, MODES[name])
                with torch.no_grad() if request.get('forward') else torch.enable_grad():
                    answer = timed(run[name], MODES[name], at_once(run[name], MODES[name]))
        except Exception as error:  # the bench goes on and says what failed
            answer = {'error': f'{type(error).__name__}: {str(error).splitlines()[0]}'}
        print(json.dumps(answer), flush=True)


main()
