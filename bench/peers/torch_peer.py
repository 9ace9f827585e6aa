"""PyTorch as a peer: reads a JSON request a line, answers a JSON line. Arrays travel through a raw float32 file.

    {"prepare": case, "file": path}  -> {"results": path, "counts": [...]}   the case's outputs, channels last
    {"threads": n}                   -> {"ms": wall, "cpuMs": processor}      one repetition of the prepared case
    {"network": ...}                 -> see network()
"""
import json
import os
import sys
import time

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', '..', 'reference'))
cuda = torch.cuda.is_available()
device = torch.device('cuda' if cuda else 'cpu')


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


def timed(run, threads):
    torch.set_num_threads(threads)
    wait()
    cpu, start = time.process_time(), time.perf_counter()
    run()
    wait()
    return {'ms': (time.perf_counter() - start) * 1000, 'cpuMs': (time.process_time() - cpu) * 1000}


def network(r):
    """-> a function: one forward and backward pass of an NCSN++, or one CMAP iteration on it."""
    import cmap
    import ncsnpp
    net = ncsnpp.NCSNpp(**r['config']).eval().to(device).requires_grad_(False)
    f = ncsnpp.Preconditioned(net)
    size, channels = net.config['image_size'], net.config['num_channels']
    z = torch.randn(1, r['k'], channels, size, size, device=device) * 80
    if r['iteration']:
        x = torch.rand(1, channels, size, size, device=device)
        return lambda: cmap.purify(f, x, z, iterations=1)

    def both():
        u = z[0].clone().requires_grad_(True)
        y = f(u, 80.0).clamp(-1, 1)
        return torch.autograd.grad(y, u, y.detach())

    return both


def main():
    print(json.dumps({'version': torch.__version__, 'threads': os.cpu_count(), 'cuda': cuda}), flush=True)
    run = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if 'prepare' in request:
                run, back = prepare(request['prepare'], load(request['prepare'], request['file']))
                outputs = [t.detach().cpu().contiguous().numpy() for t in back(run())]
                path = request['file'] + '.out'
                np.concatenate([o.ravel() for o in outputs]).tofile(path)
                answer = {'results': path, 'counts': [o.size for o in outputs]}
            elif 'network' in request:
                run = network(request['network'])
                answer = {}
            else:
                with torch.no_grad() if request.get('forward') else torch.enable_grad():
                    answer = timed(run, request['threads'])
        except Exception as error:  # the bench goes on and says what failed
            answer = {'error': f'{type(error).__name__}: {str(error).splitlines()[0]}'}
        print(json.dumps(answer), flush=True)


main()
