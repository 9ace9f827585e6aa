"""CMAP (arXiv 2412.08394), Algorithm 1, for a batch of images in [0, 1].

Adam is fed the gradient of the loss's sum form; the trace reports means:
total = mae - alpha * ssim + lambda * constraint.
"""
import torch
from torch.nn import functional as F


def blur_matrix(n, dtype, size=11, sigma=1.5):
    """[n, n]: a normalised Gaussian window with zero padding, as a matrix along one axis."""
    x = torch.arange(n, dtype=torch.float64)
    d = x[:, None] - x[None]
    g = torch.exp(-d ** 2 / (2 * sigma ** 2)) * (d.abs() <= size // 2)
    w = torch.arange(-(size // 2), size // 2 + 1, dtype=torch.float64)
    return (g / torch.exp(-w ** 2 / (2 * sigma ** 2)).sum()).to(dtype)


def ssim_map(a, b):
    """Images in [0, 1]; 11x11 Gaussian of 1.5, zero padding, so that borders are darkened in both alike."""
    rows, columns = blur_matrix(a.shape[-2], a.dtype), blur_matrix(a.shape[-1], a.dtype)

    def blur(x):
        # The window is an outer product: one axis after the other (the matrices are symmetric).
        return ((x @ columns).transpose(-1, -2) @ rows).transpose(-1, -2)

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma * ma, blur(b * b) - mb * mb, blur(a * b) - ma * mb
    c1, c2 = 0.01 ** 2, 0.03 ** 2
    return ((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma * ma + mb * mb + c1) * (va + vb + c2))


def generate(f, z, sigma_max=80.0):
    """G(z) = clip(f(z, 80), -1, 1) for z [B, K, C, H, W]."""
    b, k = z.shape[:2]
    return f(z.flatten(0, 1), sigma_max).clamp(-1, 1).unflatten(0, (b, k))


def purify(f, x, z0, iterations=200, lr=2.0, alpha=2.0, lam=5e-4, betas=(0.9, 0.99), sigma_max=80.0):
    """f(z, sigma) is the consistency function, x [B, C, H, W] in [0, 1], z0 [B, K, C, H, W].

    -> (images [B, K, C, H, W] in [0, 1] of the last forward, that is before the last update;
        latents after the last update; trace [B, iterations, 4] of total, mae, ssim, constraint)
    """
    z = z0.clone().requires_grad_(True)
    b, k = z.shape[:2]
    adam = torch.optim.Adam([z], lr=lr, betas=betas, eps=1e-8)
    target = (2 * x - 1)[:, None]
    trace = []
    for _ in range(iterations):
        g = generate(f, z, sigma_max)
        images = (g + 1) / 2
        l1 = (g - target).abs()
        similarity = ssim_map(images.flatten(0, 1), x.repeat_interleave(k, 0)).view_as(g)
        constraint = z.mean(1) ** 2 + (z.std(1, unbiased=True) - sigma_max) ** 2
        loss = l1.sum() - alpha * similarity.sum() + lam * k * constraint.sum()
        adam.zero_grad()
        (z.grad,) = torch.autograd.grad(loss, z)
        adam.step()
        with torch.no_grad():
            parts = [l1.flatten(1).mean(1), similarity.flatten(1).mean(1), constraint.flatten(1).mean(1)]
            trace.append(torch.stack([parts[0] - alpha * parts[1] + lam * parts[2], *parts], 1))
    return images.detach(), z.detach(), torch.stack(trace, 1)


def hard_vote(logits):
    """logits [B, K, classes] -> the class most of the K images have; the lowest index wins ties."""
    votes = F.one_hot(logits.argmax(-1), logits.shape[-1]).sum(1)
    return votes.argmax(-1)


def pgd(classifier, x, y, eps, steps, step, generator=None, random_start=True):
    """L-infinity PGD with signed gradients on images in [0, 1]."""
    delta = torch.zeros_like(x)
    if random_start:
        delta = (torch.rand(x.shape, generator=generator, dtype=x.dtype) * 2 - 1) * eps
    adv = (x + delta).clamp(0, 1)
    for _ in range(steps):
        adv.requires_grad_(True)
        (g,) = torch.autograd.grad(F.cross_entropy(classifier(adv), y, reduction='sum'), adv)
        adv = (adv.detach() + step * g.sign()).clamp(0, 1)
        adv = torch.min(torch.max(adv, x - eps), x + eps).clamp(0, 1)
    return adv.detach()
