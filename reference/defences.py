"""Diffusion purifiers in the coordinates of their papers, x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps, for images in [-1, 1].

The network is eps(x, abar) -> the noise. `noise(i)` gives step i's standard normal numbers: index 0 is the first noise,
then one index a step; `noise(i, 1)` is the second draw of a step.
"""
import math

import torch

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)


def abar(t):
    """After t of DDPM's 1000 steps."""
    return float(torch.prod(1 - BETAS[:t]))


def epsilon_of(denoiser):
    """The noise that a denoiser D(y + sigma n, sigma) implies."""

    def eps(x, a):
        sigma = math.sqrt((1 - a) / a)
        y = x / math.sqrt(a)
        return (y - denoiser(y, sigma)) / sigma

    return eps


def vp_abar(t, b0=0.1, b1=20.0):
    return math.exp(-(b0 * t + 0.5 * (b1 - b0) * t * t))


def diffpure(eps, image, noise, t, steps, kind='sde', b0=0.1, b1=20.0):
    """Euler(-Maruyama) on the reverse SDE or the probability-flow ODE of the VP-SDE, from t to 0."""
    h = t / steps
    a = vp_abar(t)
    x = math.sqrt(a) * image + math.sqrt(1 - a) * noise(0)
    for j in range(steps):
        now = t - j * h
        a, beta = vp_abar(now), b0 + now * (b1 - b0)
        score = -eps(x, a) / math.sqrt(1 - a)
        if kind == 'sde':
            x = x + h * (0.5 * beta * x + beta * score) + math.sqrt(beta * h) * noise(j + 1)
        else:
            x = x + h * (0.5 * beta * x + 0.5 * beta * score)
    return x


def ladder(t, steps):
    return [math.floor(t * (1 - j / steps) + 0.5) for j in range(steps + 1)]


def ddim(eps, image, noise, t, steps, eta=1.0, first=0):
    """Noise to step t of 1000 and back by DDIM with eta; `first` is the index of its first draw."""
    x = math.sqrt(abar(t)) * image + math.sqrt(1 - abar(t)) * noise(first)
    times = ladder(t, steps)
    for j, (now, to) in enumerate(zip(times, times[1:])):
        a, b = abar(now), abar(to)
        e = eps(x, a)
        x0 = (x - math.sqrt(1 - a) * e) / math.sqrt(a)
        s = eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
        x = math.sqrt(b) * x0 + math.sqrt(max(0.0, 1 - b - s * s)) * e + s * noise(first + j + 1)
    return x


def gns(eps, image, noise, rounds, steps, eta=1.0):
    x, first = image, 0
    for t in rounds:
        x = ddim(eps, x, noise, t, min(steps, t), eta, first)
        first += 1 + min(steps, t)
    return x


def gdmp(eps, image, noise, rounds, t, steps, scale, mean_over, budget):
    """Ancestral steps with the posterior's mean of the clipped image and the variance beta ("fixed large"), moved by the
    guide, whose squared error is a mean over `mean_over` images."""
    x, index = image, 0
    pixels = image[0].numel()
    times = ladder(t, steps)
    for _ in range(rounds):
        x = math.sqrt(abar(t)) * x + math.sqrt(1 - abar(t)) * noise(index)
        index += 1
        posterior = 0.0
        for now, to in zip(times, times[1:]):
            a, b = abar(now), abar(to)
            beta = 1 - a / b
            x0 = ((x - math.sqrt(1 - a) * eps(x, a)) / math.sqrt(a)).clamp(-1, 1)
            mean = math.sqrt(b) * beta / (1 - a) * x0 + math.sqrt(a / b) * (1 - b) / (1 - a) * x
            variance = beta if to > 0 else posterior
            posterior = beta * (1 - b) / (1 - a)
            q = math.sqrt(a) * image + math.sqrt(1 - a) * noise(index, 1)
            g = -2 * (x - q) / (pixels * mean_over)
            strength = scale * 3 / (2 * budget / 255) * math.sqrt((1 - a) / a)
            x = mean + variance * strength * g + (math.sqrt(beta) * noise(index) if to > 0 else 0)
            index += 1
    return x


def adp(denoiser, image, noise, sigma, level, steps, rate, probe, least, most, stop, alphas=None):
    """Score steps on pixels p in [0, 1]."""

    def score(p):
        return ((denoiser(2 * p - 1, 2 * level) + 1) / 2 - p) / level ** 2

    def inner(a, b):
        return (a * b).sum((1, 2, 3), keepdim=True)

    p = ((image + 1) / 2 + sigma * noise(0)).clamp(0, 1)
    for _ in range(steps):
        s = score(p)
        z = inner(s, score(p + probe * s)) / inner(s, s)
        bend = 1 - z
        a = torch.where(bend > 1e-12, rate * probe / bend.clamp(min=1e-12), torch.full_like(bend, most)).clamp(least, most)
        if alphas is not None:
            alphas.append(a.detach().flatten().tolist())
        p = (p + torch.where(a > stop, a, torch.zeros_like(a)) * s).clamp(0, 1)
    return 2 * p - 1
