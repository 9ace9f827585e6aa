/**
 * Gradients through the defence itself: the target is CMAP, its K images classified, with a way back to the image.
 *
 * `identity` (BPDA, Athalye et al. 2018): the whole optimisation runs forward; backward, dG(z_k)/dx is taken to be I.
 * `surrogate`: the same, and dG(z_k)/dx is taken to be the derivative of one consistency step (surrogate.ts).
 *
 * `unroll`: reverse mode through every Adam step. With g_t = ∂L/∂z at (z_{t−1}, x), L in its sum form,
 *   m_t = β₁ m_{t−1} + (1−β₁) g_t,  v_t = β₂ v_{t−1} + (1−β₂) g_t²,
 *   z_t = z_{t−1} − lr · m̂_t / (√v̂_t + ε),  m̂_t = m_t/(1−β₁ᵗ),  v̂_t = v_t/(1−β₂ᵗ),
 * the cotangents a of m_t, v_t, g_t follow from that of z_t, and
 *   ā(z_{t−1}) = ā(z_t) + H_zz ā(g_t),  ā(x) += H_xz ā(g_t).
 * z, g, m, v of every step are kept; the two products with second derivatives are central differences of the first
 * ones along ā(g_t), image by image: two gradient passes a step, and no second derivative of any kernel.
 *
 * The images that are classified are those of the last forward pass, so T iterations hold T − 1 updates.
 */

import { generate, objective, type Smoothing } from '../cmap/objective.ts';
import type { CmapOptions } from '../cmap/options.ts';
import { checkCmapOptions } from '../cmap/options.ts';
import type { Classifier } from '../cmap/vote.ts';
import { vjp } from '../engine/autograd.ts';
import type { Device } from '../engine/device.ts';
import { check, InputError } from '../engine/errors.ts';
import type { Program } from '../engine/program.ts';
import { purposes, randomNormal } from '../engine/random.ts';
import { sizeOf, type Tensor } from '../engine/tensor.ts';
import { Adam } from '../kernels/adam.ts';
import { add, div, mul, sub } from '../kernels/broadcast.ts';
import { crossEntropy } from '../kernels/cross-entropy.ts';
import { abs, affine, log, relu, sign, sqrt, square } from '../kernels/elementwise.ts';
import { max, mean, sum } from '../kernels/reduce.ts';
import { concat, reshape, slice } from '../kernels/shape.ts';
import { softmax } from '../kernels/softmax.ts';
import type { ConsistencyModel } from '../nets/consistency.ts';
import { copy } from './ascent.ts';
import { streams } from './attack.ts';
import { consistencyStep, publishedAttackSigma } from './surrogate.ts';
import type { Draw, Process, ProcessTarget } from './target.ts';

export interface ThroughCmapOptions {
  /** K and T of the attacked defence; fewer than the defence's own make a cheaper, short-horizon attack. */
  readonly cmap: CmapOptions;
  readonly backward: 'identity' | 'surrogate' | 'unroll';
  /** σ of the step behind backward `surrogate`; default the published attacks'. */
  readonly sigma?: number;
  /**
   * How K rows of logits become one: their mean; or the logarithm of the mean of their probabilities, which rewards
   * many images of one wrong class, as the vote does; or the same over a majority of the K alone, ⌊K/2⌋ + 1 of them, those
   * whose cross-entropy is highest: the others need not fall. Default probabilities.
   */
  readonly votes?: 'logits' | 'probabilities' | 'easiest';
  /** Of those probabilities: towards 0 they become the votes themselves (a soft vote). Default 1. */
  readonly temperature?: number;
  /** Go on from the latents of the call before, for the same images. */
  readonly warmStart?: boolean;
  /** Every run starts here, [B, K, H, W, C], instead of from the draw's random latents. */
  readonly latents?: Tensor;
  readonly unroll?: UnrollOptions;
}

export interface UnrollOptions {
  /** Of the gradients that are differentiated. Default: pseudo-Huber of 0.1, clip straight through. */
  readonly smoothing?: Smoothing;
  /** The forward pass is smoothed alike; for checks of the gradient, not for attacks. */
  readonly smoothForward?: boolean;
  /** 'frozen' takes 1/(√v̂ + ε) for a constant. Default exact. */
  readonly preconditioner?: 'exact' | 'frozen';
  /** Only the last so many updates are differentiated; default all. */
  readonly last?: number;
  /**
   * Step of the central differences, as a share of σ_max, root mean square over an image's latents. Default 1e-4: on
   * the fixture of make_unroll.py the gradient is then within 1e-3 of PyTorch's; 1e-3 crosses kinks of the clip.
   */
  readonly difference?: number;
}

interface Step {
  readonly z: Tensor;
  readonly g: Tensor;
  readonly m: Tensor;
  readonly v: Tensor;
}

/** Adam's epsilon in the defence. */
const eps = 1e-8;

export class ThroughCmap implements ProcessTarget {
  readonly classes: number;
  readonly randomised = true;
  readonly device: Device;
  readonly #unroll: Required<UnrollOptions>;
  #loop: Loop | null = null;

  constructor(
    readonly model: ConsistencyModel,
    readonly classifier: Classifier,
    readonly options: ThroughCmapOptions,
  ) {
    checkCmapOptions(options.cmap);
    const {
      last = Number.POSITIVE_INFINITY,
      difference = 1e-4,
      preconditioner = 'exact',
    } = options.unroll ?? {};
    const { smoothing = { huber: 0.1, straightThrough: true }, smoothForward = false } = options.unroll ?? {};
    const { sigma = publishedAttackSigma, temperature = 1 } = options;
    for (const [name, value] of Object.entries({ sigma, temperature }))
      if (!(value > 0 && Number.isFinite(value)))
        throw new InputError(`through cmap: ${name} must be a positive number, got ${value}`);
    if (!(last >= 1)) throw new InputError(`unroll: last must be at least 1 update, got ${last}`);
    if (!(difference > 0 && difference < 1))
      throw new InputError(`unroll: difference must be in (0, 1), got ${difference}`);
    this.#unroll = { last, difference, preconditioner, smoothing, smoothForward };
    this.classes = classifier.classes;
    this.device = model.device;
    model.prepare(model.sigmas.max);
    if (options.backward === 'surrogate') model.prepare(sigma);
  }

  async process(x: Tensor, draw: Draw): Promise<Process> {
    if (this.#loop?.x !== x || this.#loop.labels !== draw.labels) {
      this.#loop?.dispose();
      this.#loop = new Loop(this.model, this.classifier, x, draw.labels, this.options, this.#unroll);
    }
    return this.#loop.run(draw);
  }

  restart(): void {
    this.#loop?.restart();
  }

  dispose(): void {
    this.#loop?.dispose();
    this.#loop = null;
  }
}

/** The Programs for one tensor of images, whose content changes between runs. */
class Loop {
  readonly device: Device;
  readonly #z: Tensor;
  /** Where second derivatives are asked. */
  readonly #probe: Tensor;
  readonly #cotangent: Tensor;
  readonly #adam: Adam;
  readonly #update: Program<{ g: Tensor }>;
  readonly #logits: Program<{ logits: Tensor }>;
  readonly #head: Program<{ dx: Tensor | null; dz: Tensor | null }>;
  readonly #gradients: Program<{ gz: Tensor; gx: Tensor }> | null;
  /** Of the step behind backward `surrogate`. */
  readonly #noise: Tensor;
  #started = false;
  /** Runs begun; the latents are those of the last alone. */
  #runs = 0;

  constructor(
    readonly model: ConsistencyModel,
    classifier: Classifier,
    readonly x: Tensor,
    readonly labels: Tensor | undefined,
    readonly options: ThroughCmapOptions,
    readonly unroll: Required<UnrollOptions>,
  ) {
    const { device } = model;
    this.device = device;
    const { cmap, backward, sigma: step = publishedAttackSigma } = options;
    const { k, lr, betas, alpha, lambda, distance } = cmap;
    const [b, ...image] = x.shape as [number, number, number, number];
    check(
      String(image) === String(model.imageShape),
      () => `through cmap: images are [${x.shape}], the model makes [B,${model.imageShape}]`,
    );
    const sigma = model.sigmas.max;
    const shape = [b, k, ...image];
    const make = (s: readonly number[]) => device.keep(device.zeros(s));
    this.#z = make(shape);
    this.#probe = make(shape);
    this.#cotangent = make([b, classifier.classes]);
    this.#noise = make(backward === 'surrogate' ? x.shape : [1]);
    this.#adam = new Adam(device, this.#z, { lr, betas, eps });
    const elements = k * image.reduce((p, q) => p * q, 1);
    const loss = (z: Tensor, images: Tensor, smoothing: Smoothing) => {
      const wanted = { target: affine(images, 2, -1), similarity: images };
      const { total } = objective(
        z,
        generate(model, z, smoothing),
        wanted,
        { alpha, lambda, sigma, distance },
        smoothing,
      );
      return affine(sum(total), elements);
    };
    const forward = unroll.smoothForward ? unroll.smoothing : {};
    this.#update = device.record('cmap update', () => {
      const { pullback } = vjp((z) => loss(z, x, forward), [this.#z]);
      const [g] = pullback() as [Tensor];
      this.#adam.step([g]);
      return { g };
    });
    const classes = (g: Tensor) =>
      combineVotes(classifier.logits(affine(g, 0.5, 0.5)), b, k, options, labels);
    this.#logits = device.record('cmap logits', () => ({
      logits: classes(generate(model, this.#z, forward)),
    }));
    this.#head = device.record('cmap head', () => {
      if (backward === 'unroll') {
        const { pullback } = vjp((z) => classes(generate(model, z, unroll.smoothing)), [this.#z]);
        return { dx: null, dz: pullback(this.#cotangent)[0] as Tensor };
      }
      // x stands for every (G(z_k) + 1)/2.
      const { pullback } = vjp((g) => classes(g), [generate(model, this.#z)]);
      const dg = affine(pullback(this.#cotangent)[0] as Tensor, 2);
      const dx = sum(reshape(dg, [b, k, ...image]), [1]);
      if (backward === 'identity') return { dx, dz: null };
      const back = vjp((u) => consistencyStep(model, u, this.#noise, step), [x]).pullback;
      return { dx: back(dx)[0] as Tensor, dz: null };
    });
    this.#gradients =
      backward === 'unroll'
        ? device.record('cmap gradients', () => {
            const { pullback } = vjp((z, images) => loss(z, images, unroll.smoothing), [this.#probe, x]);
            const [gz, gx] = pullback() as [Tensor, Tensor];
            return { gz, gx };
          })
        : null;
  }

  /** The next run starts from random latents. */
  restart(): void {
    this.#started = false;
  }

  async run(draw: Draw): Promise<Process> {
    const { device, options, unroll } = this;
    const { iterations } = options.cmap;
    const own = ++this.#runs;
    const current = () =>
      check(
        own === this.#runs,
        () => 'through cmap: another process began before this one was pulled back; one after the other',
      );
    for (const program of [this.#update, this.#logits, this.#head, this.#gradients]) await program?.prepare();
    current();
    if (!this.#started || !options.warmStart) {
      device.scope(() => {
        if (options.latents) return copy(options.latents, this.#z);
        const { seed, rows, step, known } = draw;
        const own = known ? { purpose: purposes.latents } : { purpose: streams.attackLatents, step };
        const normal = randomNormal(device, this.#z.shape, { seed, rows, ...own });
        copy(affine(normal, this.model.sigmas.max), this.#z);
      });
    }
    if (options.backward === 'surrogate')
      device.scope(() => {
        const { seed, rows, step } = draw;
        const noise = { seed, rows, step, purpose: streams.surrogate };
        copy(randomNormal(device, this.#noise.shape, noise), this.#noise);
      });
    this.#started = true;
    this.#adam.reset();
    const steps: Step[] = [];
    const clone = (t: Tensor) => device.keep(device.scope(() => affine(t, 1)));
    for (let t = 1; t < iterations; t++) {
      const kept = this.#gradients !== null && t > iterations - 1 - unroll.last;
      const z = kept ? clone(this.#z) : null;
      const { g } = this.#update.run();
      const { m, v } = this.#adam.moments[0] as { m: Tensor; v: Tensor };
      if (z) steps.push({ z, g: clone(g), m: clone(m), v: clone(v) });
      // A few iterations stay in flight.
      if (t % 8 === 0) {
        await device.sync();
        current();
      }
    }
    const logits = clone(this.#logits.run().logits);
    const first = iterations - steps.length;
    return {
      logits,
      pullback: async (cotangent) => {
        current();
        copy(cotangent, this.#cotangent);
        const { dx, dz } = this.#head.run();
        return dx ? clone(dx) : this.#through(clone(dz as Tensor), steps, first);
      },
      dispose: () => {
        logits.dispose();
        for (const { z, g, m, v } of steps) for (const tensor of [z, g, m, v]) tensor.dispose();
      },
    };
  }

  /** From the cotangent of the last latents to that of the images. @param first number of the first kept update */
  async #through(last: Tensor, steps: readonly Step[], first: number): Promise<Tensor> {
    const { device, options, unroll } = this;
    const { lr, betas } = options.cmap;
    const [beta1, beta2] = betas;
    const h = unroll.difference * this.model.sigmas.max;
    const gradients = this.#gradients as Program<{ gz: Tensor; gx: Tensor }>;
    // Cotangents of z_t, of m_t and v_t through the later steps, and of x.
    let state = { z: last, m: zeros(last), v: zeros(last), x: zeros(this.x) };
    for (let i = steps.length - 1; i >= 0; i--) {
      const { z, g, m, v } = steps[i] as Step;
      const t = first + i;
      const correct1 = 1 - beta1 ** t;
      const correct2 = 1 - beta2 ** t;
      const next = device.scope(() => {
        const root = sqrt(affine(v, 1 / correct2));
        const denominator = affine(root, 1, eps);
        const am = add(state.m, div(affine(state.z, -lr / correct1), denominator));
        let av = state.v;
        if (unroll.preconditioner === 'exact') {
          // d(1/(√v̂ + ε))/dv = −1 / (2 √v̂ (√v̂ + ε)² (1−β₂ᵗ)); tiny keeps 0/0 at 0, where g and m are 0 too. Its product with ε²
          // would be no f32 any more.
          const slope = div(div(m, affine(root, 1, 1e-30)), square(denominator));
          av = add(av, mul(state.z, affine(slope, lr / correct1 / (2 * correct2))));
        }
        const ag = add(affine(am, 1 - beta1), affine(mul(g, av), 2 * (1 - beta2)));
        // A direction of length one (root mean square) for each image; squares of the small are no f32 before they are scaled.
        const [images, ...latents] = ag.shape as [number, ...number[]];
        const greatest = max(reshape(abs(ag), [images, sizeOf(latents)]), 1);
        const most = reshape(affine(greatest, 1, 1e-30), [images, 1, 1, 1, 1]);
        const scaled = div(ag, most);
        const rms = affine(sqrt(mean(square(scaled), [1, 2, 3, 4], { keepDims: true })), 1, 1e-30);
        const length = mul(most, rms);
        const direction = div(scaled, rms);
        const both = [1, -1].map((side) => {
          copy(add(z, affine(direction, side * h)), this.#probe);
          const { gz, gx } = gradients.run();
          return { gz: affine(gz, 1), gx: affine(gx, 1) };
        }) as [{ gz: Tensor; gx: Tensor }, { gz: Tensor; gx: Tensor }];
        const [up, down] = both;
        const scale = affine(length, 1 / (2 * h));
        const [b] = this.x.shape as [number];
        const hz = mul(sub(up.gz, down.gz), scale);
        const hx = mul(sub(up.gx, down.gx), reshape(scale, [b, 1, 1, 1]));
        return {
          z: add(state.z, hz),
          m: affine(am, beta1),
          v: affine(av, beta2),
          x: add(state.x, hx),
        };
      });
      for (const tensor of Object.values(state)) tensor.dispose();
      state = next;
      await device.sync();
    }
    for (const tensor of [state.z, state.m, state.v]) tensor.dispose();
    return state.x;

    function zeros(like: Tensor): Tensor {
      return device.zeros(like.shape);
    }
  }

  dispose(): void {
    for (const program of [this.#update, this.#logits, this.#head, this.#gradients]) program?.dispose();
    this.#adam.dispose();
    for (const tensor of [this.#z, this.#probe, this.#cotangent, this.#noise]) tensor.dispose();
  }
}

/** [B·K, classes] -> [B, classes]. @param labels true classes u32 [B] */
export function combineVotes(
  logits: Tensor,
  b: number,
  k: number,
  { votes = 'probabilities', temperature = 1 }: Pick<ThroughCmapOptions, 'votes' | 'temperature'>,
  labels: Tensor | undefined,
): Tensor {
  const classes = logits.shape[1] as number;
  const each = [b, k, classes];
  if (votes === 'logits') return mean(reshape(logits, each), [1]);
  const p = reshape(softmax(affine(logits, 1 / temperature)), each);
  const share = votes === 'easiest' ? easiest(logits, p, labels) : mean(p, [1]);
  return log(affine(share, 1, 1e-12));
}

/** Mean probabilities over the majority of the K images that are nearest to being misclassified, or already are. */
function easiest(logits: Tensor, p: Tensor, labels: Tensor | undefined): Tensor {
  const [b, k, classes] = p.shape as [number, number, number];
  check(labels, () => 'through cmap: votes easiest needs the true classes, draw.labels');
  const byImage = reshape(logits, p.shape);
  const losses = Array.from({ length: k }, (_, j) =>
    reshape(crossEntropy(reshape(slice(byImage, 1, j, 1), [b, classes]), labels), [b, 1]),
  );
  const loss = concat(losses, 1);
  // How many of the others have a higher loss; chosen are those with fewer than half.
  const higher = relu(sign(sub(reshape(loss, [b, 1, k]), reshape(loss, [b, k, 1]))));
  const rank = sum(higher, [2]);
  const chosen = relu(sign(affine(rank, -1, Math.floor(k / 2) + 0.5)));
  const weight = div(chosen, sum(chosen, [1], { keepDims: true }));
  return sum(mul(p, reshape(weight, [b, k, 1])), [1]);
}
