"""The published AutoAttack and a plain PGD, on the shipped Fashion-MNIST classifier and on published CIFAR-10 networks:
the judge of src/attacks.

    git clone https://github.com/fra31/auto-attack
    python3 reference/attacks.py fixture --auto-attack auto-attack
    python3 reference/attacks.py real --data DIR
    python3 reference/attacks.py stages --auto-attack auto-attack --norm Linf --eps 2/255 --count 64 --seeds 0,1,2
    python3 reference/attacks.py stages --auto-attack auto-attack --net resnet2b --data DIR --eps 2/255 --count 50

`fixture` writes test/fixtures/attacks/fashion-mnist.safetensors: what is deterministic once the start is given.
`real` writes test/fixtures/attacks/real-pgd.safetensors: PGD without a random start on the first 200 CIFAR-10 test
images, image by image, in float64 and in float32. DIR is the one of predictions.py.
`stages` prints the robust accuracy after each attack of the ensemble, a line a seed.
"""
import argparse
import glob
import gzip
import json
import os
import sys
import time

import numpy as np
import torch
from torch.nn import functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path.insert(0, HERE)
import predictions  # noqa: E402
import safetensors_io  # noqa: E402
from wide_resnet import WideResNet  # noqa: E402


def load_real(name, data):
    """-> published network of predictions.py, evaluation mode."""
    pattern, family, config = predictions.NETWORKS[name]
    (file,) = glob.glob(os.path.join(data, pattern))
    net = family(**config).eval()
    net.load_state_dict(predictions.state_dict(file))
    for p in net.parameters():
        p.requires_grad_(False)
    return net


def load(count, offset=0, name=None, data=None):
    """-> classifier, images [N,C,H,W] in [0, 1], labels; Fashion-MNIST, or CIFAR-10 for a network of predictions.py."""
    if name:
        images, labels = predictions.test_set(os.path.join(data, 'cifar10'))
        return load_real(name, data), images[offset:offset + count], labels[offset:offset + count]
    with open(os.path.join(ROOT, 'weights', 'manifest.json')) as f:
        entry = json.load(f)['fashion-mnist-wrn']
    tensors, _ = safetensors_io.load(os.path.join(ROOT, 'weights', entry['file']))
    net = WideResNet(**entry['config']).eval()
    net.load_state_dict({k: torch.as_tensor(np.array(v, np.float32)) for k, v in tensors.items()}, strict=False)
    for p in net.parameters():
        p.requires_grad_(False)
    folder = os.path.join(ROOT, 'data', 'fashion-mnist')
    with gzip.open(os.path.join(folder, 't10k-images-first1000.idx3-ubyte.gz')) as f:
        images = np.frombuffer(f.read(), np.uint8)[16:].reshape(-1, 1, 28, 28)
    with gzip.open(os.path.join(folder, 't10k-labels-first1000.idx1-ubyte.gz')) as f:
        labels = np.frombuffer(f.read(), np.uint8)[8:]
    some = slice(offset, offset + count)
    return net, torch.as_tensor(images[some] / np.float32(255)).float(), torch.as_tensor(labels[some].astype(np.int64))


def project_l1(x, d, eps):
    """The nearest perturbation to d with L1 norm <= eps and x + . in [0, 1], by bisection; [N, ...]."""
    x, d = x.flatten(1), d.flatten(1)
    room = torch.where(d > 0, 1 - x, x)

    def cut(level):
        return torch.minimum((d.abs() - level).clamp(min=0), room)

    low, high = torch.zeros_like(d[:, :1]), d.abs().max(1, keepdim=True)[0]
    low = torch.where(cut(low).sum(1, keepdim=True) <= eps, -high, low)  # then the level comes out as 0
    for _ in range(60):
        middle = (low + high) / 2
        inside = cut(middle.clamp(min=0)).sum(1, keepdim=True) <= eps
        low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
    return d.sign() * cut(high.clamp(min=0))


def pgd(net, x, y, norm, eps, steps, step, target=None):
    """The last iterate from the image itself; towards `target` where it is given."""
    adv = x.clone()
    for _ in range(steps):
        adv.requires_grad_(True)
        logits = net(adv)
        loss = F.cross_entropy(logits, y, reduction='sum') if target is None else -F.cross_entropy(
            logits, target, reduction='sum')
        (g,) = torch.autograd.grad(loss, adv)
        adv = adv.detach()
        if norm == 'Linf':
            adv = torch.min(torch.max(adv + step * g.sign(), x - eps), x + eps).clamp(0, 1)
        elif norm == 'L1':
            # The largest 1 % of the gradient: from the value of rank floor(0.99 n) on.
            size = g.flatten(1).abs()
            least = size.sort(1)[0][:, int(np.float32(1 - np.float32(0.01)) * size.shape[1])]
            u = g.sign() * (g.abs() >= least.view(-1, 1, 1, 1))
            u = u / u.flatten(1).abs().sum(1).view(-1, 1, 1, 1)
            adv = x + project_l1(x, adv + step * u - x, eps).view(x.shape)
        else:
            d = adv + step * g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1) - x
            n = d.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            adv = (x + d * torch.clamp(eps / n, max=1)).clamp(0, 1)
    return adv.detach()


# Network, eps: PGD of 20 steps of eps/8 from the image itself.
REAL = [(name, eps) for name, radii in {
    'resnet2b': (2, 8), 'resnet4b': (2, 8), 'cifar_cnn_a_adv': (2, 8), 'cifar_cnn_a_adv4': (2, 8),
    'cifar_cnn_a_mix4': (2, 8), 'cifar_conv_small_pgd': (2, 8), 'resnet20': (1,)}.items() for eps in radii]


def make_real(args):
    """Of the last iterate, float64: loss, margin z_y - max z_j, success; in float32: loss and margin, for comparison."""
    steps, count = 20, 200
    images, truth = predictions.test_set(os.path.join(args.data, 'cifar10'))
    x, y = images[:count], truth[:count]
    out, rows = {}, []
    for name, eps255 in REAL:
        eps, key = eps255 / 255, f'{name}-{eps255}'
        for dtype in (torch.float64, torch.float32):
            net = load_real(name, args.data).to(dtype)
            found = []
            for xs, ys in zip(x.split(50), y.split(50)):
                adv = pgd(net, xs.to(dtype), ys, 'Linf', eps, steps, eps / 8)
                z = net(adv)
                rows_ = torch.arange(len(ys))
                others = z.masked_fill(F.one_hot(ys, 10).bool(), -1e9).max(1)[0]
                found.append(torch.stack([F.cross_entropy(z, ys, reduction='none'), z[rows_, ys] - others]))
            loss, margin = torch.cat(found, 1)
            at = key if dtype == torch.float64 else f'{key}.float32'
            out[f'{at}.loss'], out[f'{at}.margin'] = loss.float().numpy(), margin.float().numpy()
        rows.append(dict(name=name, key=key, eps=eps, steps=steps, stepSize=eps / 8))
        robust = (out[f'{key}.margin'] > 0).sum()
        flips = ((out[f'{key}.margin'] > 0) != (out[f'{key}.float32.margin'] > 0)).sum()
        print(f'{key}: {robust} of {count} robust; float32 differs at {flips}, in loss by '
              f'{np.abs(out[f"{key}.loss"] - out[f"{key}.float32.loss"]).max():.2e}', flush=True)
    path = os.path.join(ROOT, 'test', 'fixtures', 'attacks', 'real-pgd.safetensors')
    safetensors_io.save(path, out, {
        'generator': 'reference/attacks.py real', 'torch': torch.__version__, 'rows': rows})


class Locals:
    """The local variables of a function when it returns."""

    def __init__(self, name):
        self.name, self.values = name, None

    def __enter__(self):
        def on_event(frame, event, _):
            if event == 'return' and frame.f_code.co_name == self.name:
                self.values = dict(frame.f_locals)

        sys.setprofile(on_event)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)


def make_fixture():
    from autoattack import autopgd_base
    from autoattack.autopgd_base import APGDAttack, APGDAttack_targeted, L1_projection
    # A pixel that the projection puts back lies 1e-8 from its place after rounding and would count as moved.
    autopgd_base.L0_norm = lambda x: (x.abs() > 1e-6).flatten(1).sum(1)
    from autoattack.fab_pt import FABAttack_PT
    out, options = {}, {}

    # Losses of random logits, and their gradients by autograd.
    torch.manual_seed(0)
    z, y = (3 * torch.randn(12, 10)).double(), torch.randint(10, (12,))
    for i in range(4):  # rows whose true class is the largest
        z[i, y[i]] = z[i].max() + 1
    t = (y + 1 + torch.randint(9, (12,))) % 10
    rows = torch.arange(12)
    targeted = APGDAttack_targeted(None, eps=1.)
    targeted.y_target = t

    def others(logits, own):
        return logits.masked_fill(F.one_hot(own, 10).bool(), -1e9).max(1)[0]

    losses = {
        'ce': lambda v: F.cross_entropy(v, y, reduction='none'),
        'ce-targeted': lambda v: -F.cross_entropy(v, t, reduction='none'),
        'margin': lambda v: others(v, y) - v[rows, y],
        'margin-targeted': lambda v: v[rows, t] - others(v, t),
        'dlr': lambda v: APGDAttack(None, eps=1.).dlr_loss(v, y),
        'dlr-targeted': lambda v: targeted.dlr_loss_targeted(v, y),
        'difference-targeted': lambda v: v[rows, t] - v[rows, y],
    }
    z = z.float().double()
    out.update({'logits': z, 'logits.labels': y, 'logits.targets': t})
    for name, loss in losses.items():
        v = z.clone().requires_grad_(True)
        value = loss(v)
        (g,) = torch.autograd.grad(value.sum(), v)
        out[f'loss.{name}'], out[f'loss.{name}.gradient'] = value.detach(), g

    # PGD in double from the image, last iterate.
    net, x, y = load(8)
    wide = WideResNet(**net.config).eval()
    wide.load_state_dict(net.state_dict())
    wide = wide.double()
    wanted = (y + 1) % 10
    balls = {'Linf': 5 / 255, 'L2': 0.4, 'L1': 8.}
    for norm, eps in balls.items():
        for name, target in (('', None), ('-targeted', wanted)):
            adv = pgd(wide, x.double(), y, norm, eps, 10, eps / 4, target)
            logits = wide(adv)
            loss = (F.cross_entropy(logits, y, reduction='none') if target is None
                    else -F.cross_entropy(logits, target, reduction='none'))
            key = f'pgd-{norm}{name}'
            out[f'{key}.loss'] = loss
            out[f'{key}.hit'] = (logits.argmax(1) != y if target is None else logits.argmax(1) == target).long()
            options[key] = dict(norm=norm, eps=eps, steps=10, stepSize=eps / 4)

    # APGD, 40 steps, from a given start, on the first 4 images.
    x, y, wanted = x[:4], y[:4], net(x[:4]).sort(dim=1)[1][:, -2]
    wanted = torch.where(wanted == y, net(x).argmax(1), wanted)
    for norm, eps in balls.items():
        t = torch.randn(x.shape)
        length = t.flatten(1).abs().max(1)[0] if norm == 'Linf' else t.flatten(1).norm(dim=1)
        start = (x + 0.5 * eps * t / length.view(-1, 1, 1, 1)).clamp(0, 1)
        if norm == 'L1':
            d = L1_projection(x, t, eps)
            start = (x + t + d).clamp(0, 1)
            start = torch.where((start - x).abs() > 1e-6, start, x)
            out['l1.x'], out['l1.raw'], out['l1.projected'] = x, t, start - x
        for loss in ('ce', 'dlr', 'dlr-targeted'):
            attack = (APGDAttack_targeted if loss == 'dlr-targeted' else APGDAttack)(
                net, n_iter=40, norm=norm, eps=eps, device='cpu', seed=0)
            attack.loss = loss
            attack.y_target = wanted
            attack.init_hyperparam(x)
            with Locals('attack_single_run') as run:
                _, robust, best, _ = attack.attack_single_run(x, y, x_init=start)
            key = f'apgd-{norm}-{loss}'
            out[f'{key}.start'], out[f'{key}.best'] = start, best
            out[f'{key}.hit'] = (~robust.bool()).long()
            out[f'{key}.step'] = run.values['step_size'].flatten()
            # At the first checkpoint, step 8; rounding has not grown yet.
            out[f'{key}.bestAfter'] = run.values['loss_best_steps'][8]
            options[key] = dict(norm=norm, eps=eps, steps=40)
    out['apgd.targets'] = wanted

    # APGD-L1 through balls of 3, 2 and 1 eps; its random start is given.
    attack = APGDAttack(net, n_iter=40, norm='L1', eps=balls['L1'], device='cpu', seed=0, use_largereps=True)
    attack.init_hyperparam(x)
    t = torch.randn(x.shape)
    torch.randn_like, before = (lambda _: t), torch.randn_like
    _, robust, best, _ = attack.decr_eps_pgd(x, y, [3 * balls['L1'], 2 * balls['L1'], balls['L1']], [12, 12, 16])
    torch.randn_like = before
    out['apgd-L1-balls.start'], out['apgd-L1-balls.best'], out['apgd-L1-balls.hit'] = x + t, best, (~robust.bool()).long()

    # FAB, no random start: the smallest perturbations found.
    for norm, eps in balls.items():
        for targeted in (False, True):
            steps = 20 if targeted else 30 if norm == 'L1' else 5
            attack = FABAttack_PT(net, norm=norm, eps=eps, n_iter=steps, targeted=targeted, device='cpu')
            attack.target_class = 2
            adv = attack.attack_single_run(x, y, use_rand_start=False, is_targeted=targeted)
            d = (adv - x).flatten(1)
            key = f'fab-{norm}{"-targeted" if targeted else ""}'
            out[key] = d.norm(dim=1, p={'Linf': np.inf, 'L2': 2, 'L1': 1}[norm])
            options[key] = dict(norm=norm, eps=eps, steps=steps)

    out = {k: v.detach() for k, v in out.items()}
    tensors = {k: (v.numpy().astype(np.uint32) if v.dtype == torch.int64 else v.float().numpy()) for k, v in out.items()}
    path = os.path.join(ROOT, 'test', 'fixtures', 'attacks', 'fashion-mnist.safetensors')
    safetensors_io.save(path, tensors, {
        'generator': 'reference/attacks.py fixture', 'torch': torch.__version__, 'options': options})
    print(f'{path}: {os.path.getsize(path):,} bytes')
    for k, v in out.items():
        if not k.endswith(('start', 'gradient')) and not k.startswith('log'):
            print(k, np.round(v.numpy().astype(float), 4).tolist())


def stages(args, eps):
    from autoattack import AutoAttack
    net, x, y = load(args.count, args.offset, args.net, args.data)
    for seed in map(int, args.seeds.split(',')):
        began = time.time()
        attack = AutoAttack(net, norm=args.norm, eps=eps, version=args.version, device='cpu', verbose=False, seed=seed)
        lines = []
        attack.logger.log = lines.append
        attack.verbose = True
        attack.attacks_to_run = args.attacks.split(',') if args.attacks else attack.attacks_to_run
        attack.square.n_queries = args.queries
        attack.run_standard_evaluation(x, y, bs=args.count)
        found = [line.split(' (')[0].replace('robust accuracy after ', '') for line in lines
                 if line.startswith(('initial accuracy', 'robust accuracy after'))]
        print(f'seed {seed}: ' + ', '.join(found) + f' ({time.time() - began:.0f} s)', flush=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['fixture', 'real', 'stages'])
    parser.add_argument('--auto-attack', help='a checkout of github.com/fra31/auto-attack')
    parser.add_argument('--net', choices=list(predictions.NETWORKS), help='instead of the Fashion-MNIST classifier')
    parser.add_argument('--data', help='CIFAR-10 and checkpoints, as predictions.py wants them')
    parser.add_argument('--norm', choices=['Linf', 'L2', 'L1'], default='Linf')
    parser.add_argument('--eps', default='2/255', help='a fraction or a number')
    parser.add_argument('--count', type=int, default=64)
    parser.add_argument('--offset', type=int, default=0)
    parser.add_argument('--seeds', default='0,1,2')
    parser.add_argument('--version', choices=['standard', 'plus', 'rand'], default='standard')
    parser.add_argument('--attacks', help='only these of the ensemble, such as square,fab-t')
    parser.add_argument('--queries', type=int, default=5000, help='of the Square Attack')
    parser.add_argument('--threads', type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.what != 'real' and not arguments.auto_attack:
        parser.error('--auto-attack: where the published code is')
    if (arguments.what == 'real' or arguments.net) and not arguments.data:
        parser.error('--data: where CIFAR-10 and the checkpoints are')
    sys.path.insert(0, arguments.auto_attack or '.')
    if arguments.what == 'real':
        make_real(arguments)
    elif arguments.what == 'fixture':
        make_fixture()
    else:
        top, _, bottom = arguments.eps.partition('/')
        stages(arguments, float(top) / float(bottom or 1))
