/**
 * CMAP (Algorithm 1): for each image x, K latents z_1..z_K of a consistency model are moved by Adam so that the
 * generated images restore x while the latents stay Gaussian; the objective is in objective.ts.
 *
 * Losses are reported as means. Adam is fed the gradient of their sum over the K·H·W·C elements, as the released
 * code does; with the means its epsilon would be felt.
 *
 * All images and all latents are one batch [B·K, H, W, C], and one iteration is one replayed Program.
 */

import { vjp } from '../engine/autograd.ts';
import type { Device } from '../engine/device.ts';
import { CmapError, check } from '../engine/errors.ts';
import { purposes, randomNormal } from '../engine/random.ts';
import type { Tensor } from '../engine/tensor.ts';
import { Adam } from '../kernels/adam.ts';
import { affine } from '../kernels/elementwise.ts';
import { latentStatistics } from '../kernels/latent-constraint.ts';
import { sum } from '../kernels/reduce.ts';
import { concat, reshape } from '../kernels/shape.ts';
import { ssimTarget } from '../kernels/ssim.ts';
import type { ConsistencyModel } from '../nets/consistency.ts';
import { generate, objective } from './objective.ts';
import { type CmapOptions, checkCmapOptions } from './options.ts';
import { checkPixels } from './pixels.ts';
import { Trace } from './trace.ts';

/** One image's losses before an update, as means: total = mae − α·ssim + λ·constraint. */
export interface TraceEntry {
  readonly total: number;
  readonly mae: number;
  readonly ssim: number;
  readonly constraint: number;
  /** Mean over pixels of the latents' mean and standard deviation across K (the paper's Fig. 6). */
  readonly latentMean: number;
  readonly latentStd: number;
}

const fields = ['total', 'mae', 'ssim', 'constraint', 'latentMean', 'latentStd'] as const;

export interface Purified {
  /** G of the last forward pass, which precedes the last update: [B, K, H, W, C] in [0, 1]. These are classified. */
  readonly images: Tensor;
  /** After the last update: [B, K, H, W, C]. */
  readonly latents: Tensor;
  /** By image, by iteration. */
  readonly trace: TraceEntry[][];
}

export interface PurifyHooks {
  /** Called after every iteration that has finished. */
  readonly onIteration?: (done: number, total: number) => void;
  /** On the way, every so many iterations, G's images [B, K, H, W, C] in [0, 1] are shown, and waited for. */
  readonly looks?: {
    readonly every: number;
    readonly at: (iteration: number, images: Tensor) => Promise<void>;
  };
  /** Called while kernels compile, before the first iteration. */
  readonly onCompile?: (done: number, total: number) => void;
  /** Starting latents [B, K, H, W, C] instead of random ones. */
  readonly latents?: Tensor;
  /** Global number of each image; its latents depend on it and on the seed alone, not on the batch. */
  readonly imageIds?: readonly number[];
}

/**
 * Purifies images.
 * @param x [B, H, W, C] in [0, 1]
 * @throws InputError for images outside that range or options out of theirs, CmapError where the optimisation diverges
 */
export async function purify(
  model: ConsistencyModel,
  x: Tensor,
  options: CmapOptions,
  hooks: PurifyHooks = {},
): Promise<Purified> {
  checkCmapOptions(options);
  check(
    x.rank === 4 && x.size > 0,
    () => `purify: x is [${x.shape}], wanted [B,H,W,C] of at least one image`,
  );
  checkPixels('purify', await x.floats(), x.shape[0] as number);
  const loop = new PurifyLoop(model, x, options, hooks);
  try {
    await loop.program.prepare(hooks.onCompile);
    // A few iterations stay in flight: enough to keep the device busy, few enough to report progress.
    const inFlight: Promise<void>[] = [];
    let finished = 0;
    for (let t = 0; t < options.iterations; t++) {
      loop.program.run();
      const { looks } = hooks;
      if (looks && (t + 1) % looks.every === 0 && t + 1 < options.iterations) {
        const images = loop.images();
        await looks.at(t + 1, images).finally(() => images.dispose());
      }
      const done = model.device.sync().then(() => hooks.onIteration?.(++finished, options.iterations));
      done.catch(() => {}); // a failure is thrown where the promise is awaited
      inFlight.push(done);
      if (inFlight.length >= 3) await inFlight.shift();
    }
    await Promise.all(inFlight);
    return await loop.result();
  } finally {
    loop.dispose();
  }
}

/** The state of Algorithm 1 on the device and the Program of one iteration. */
export class PurifyLoop {
  readonly device: Device;
  readonly latents: Tensor;
  readonly adam: Adam;
  readonly trace: Trace;
  readonly constants: readonly Tensor[];
  readonly program;

  constructor(
    model: ConsistencyModel,
    readonly x: Tensor,
    readonly options: CmapOptions,
    readonly hooks: PurifyHooks,
  ) {
    const { device } = model;
    const { k, alpha, lambda, lr, betas, seed, distance } = options;
    const [height, width, channels] = model.imageShape;
    const b = x.shape[0] as number;
    check(
      String(x.shape) === String([b, height, width, channels]),
      () => `purify: images are [${x.shape}], the model makes [B,${height},${width},${channels}]`,
    );
    this.device = device;
    const shape = [b, k, height, width, channels];
    const { max: sigma } = model.sigmas;
    this.latents = device.keep(
      device.scope(() => {
        if (hooks.latents) {
          check(
            String(hooks.latents.shape) === String(shape),
            () => `purify: latents are [${hooks.latents?.shape}], wanted [${shape}]`,
          );
          return affine(hooks.latents, 1);
        }
        const rows = hooks.imageIds ? device.tensor(hooks.imageIds, [b], 'u32') : undefined;
        return affine(randomNormal(device, shape, { seed, purpose: purposes.latents, step: 0, rows }), sigma);
      }),
    );
    this.adam = new Adam(device, this.latents, { lr, betas, eps: 1e-8 });
    this.trace = new Trace(device, options.iterations, fields.length * b);
    model.prepare(sigma);

    // What depends on the image alone is not repeated at every iteration.
    const { target, similarity } = device.scope(() => ({
      target: affine(x, 2, -1),
      similarity: ssimTarget(x),
    }));
    this.constants = [device.keep(target), device.keep(similarity.moments)];
    const elements = height * width * channels;
    this.program = device.record('cmap iteration', () => {
      let images = x;
      const parts: Tensor[] = [];
      const { output, pullback } = vjp(
        (z) => {
          const g = generate(model, z);
          images = affine(g, 0.5, 0.5);
          const { total, mae, ssim, constraint } = objective(
            z,
            g,
            { target, similarity },
            { alpha, lambda, sigma, distance },
          );
          parts.push(total, mae, ssim, constraint);
          return sum(total);
        },
        [this.latents],
      );
      // From means to sums: every mean is over K·H·W·C elements.
      const [gradient] = pullback(device.full(output.shape, k * elements)) as [Tensor];
      const statistics = latentStatistics(this.latents);
      const rows = concat([...parts.map((p) => reshape(p, [b, 1])), statistics], 1);
      this.trace.push(rows);
      this.adam.step([gradient]);
      return { images };
    });
  }

  /** Of the last iteration, [B, K, H, W, C] in [0, 1]. The caller disposes. */
  images(): Tensor {
    const { device } = this;
    return device.keep(
      device.scope(() => reshape(affine(this.program.outputs.images, 1), this.latents.shape)),
    );
  }

  /** @throws CmapError where a loss is no number any more, or the device did not do all iterations */
  async result(): Promise<Purified> {
    const { device, options } = this;
    const b = this.x.shape[0] as number;
    const [values, [ran]] = await Promise.all([this.trace.rows.floats(), this.trace.step.read()]);
    // Some systems end work that takes long without a word.
    if (ran !== options.iterations)
      throw new CmapError(
        `purify: the device ran ${ran} of ${options.iterations} iterations, and said nothing; take fewer images at once`,
      );
    const at = (t: number, i: number): TraceEntry => {
      const row = (t * b + i) * fields.length;
      return Object.fromEntries(fields.map((name, j) => [name, values[row + j]])) as unknown as TraceEntry;
    };
    const trace = Array.from({ length: b }, (_, i) =>
      Array.from({ length: options.iterations }, (_, t) => at(t, i)),
    );
    for (const [i, entries] of trace.entries())
      for (const [t, entry] of entries.entries())
        for (const name of fields)
          if (!Number.isFinite(entry[name]))
            throw new CmapError(
              `purify: image ${this.hooks.imageIds?.[i] ?? i} diverged: ${name} is ${entry[name]} at iteration ${t + 1} of ${options.iterations}; take a smaller lr (${options.lr}), lambda (${options.lambda}) or alpha (${options.alpha})`,
            );
    return { images: this.images(), latents: device.keep(this.latents.alias()), trace };
  }

  dispose(): void {
    this.program?.dispose();
    for (const tensor of this.constants) tensor.dispose();
    this.trace.dispose();
    this.adam.dispose();
    this.latents.dispose();
  }
}
