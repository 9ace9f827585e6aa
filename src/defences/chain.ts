/**
 * A purifier as a chain of steps on u, which is an image in [-1, 1] with noise of the level σ on it (u = y + σn):
 * noise is added, then taken away step by step by a denoiser D; what results is classified. Variance-preserving
 * diffusions are the same in u = x/√ᾱ.
 *
 * A step is one of
 *   noise    u' = u + s·n, clipped to [-1, 1] where asked
 *   denoise  u' = a·u + b·D(u, σ) + s·n + g·(image + h·m), D clipped to [-1, 1] where asked
 *   ascend   u' = u + α·S(u) clipped to [-1, 1], S = (D(u, σ) − u)/w, with a step α of its own for each image (see adp.ts)
 * n and m are standard normal, drawn by (seed, image, copy, draw, step), so that results do not depend on the batch.
 *
 * The gradient is exact reverse mode: the state before every step is kept, the step is computed again and pulled back.
 * One recorded Program serves all steps of a kind, because the level and the coefficients are tensors.
 */
import { copy } from '../attacks/ascent.ts';
import type { Draw, Process, ProcessTarget } from '../attacks/target.ts';
import { type Classifier, classifyByVote } from '../cmap/vote.ts';
import { vjp } from '../engine/autograd.ts';
import { check, InputError } from '../engine/errors.ts';
import type { Program } from '../engine/program.ts';
import { randomNormal } from '../engine/random.ts';
import type { Tensor } from '../engine/tensor.ts';
import { add, div, mul, sub } from '../kernels/broadcast.ts';
import { affine, clamp, relu, sign } from '../kernels/elementwise.ts';
import { broadcastTo, sum } from '../kernels/reduce.ts';
import { reshape, slice } from '../kernels/shape.ts';
import { type AttackSurface, bareSurface, checkFit, type Defence } from './defence.ts';
import { type Denoiser, denoise } from './denoiser.ts';

export interface NoiseStep {
  readonly kind: 'noise';
  readonly noise: number;
  readonly clip?: boolean;
}

export interface DenoiseStep {
  readonly kind: 'denoise';
  readonly sigma: number;
  /** a, b and s. */
  readonly keep: number;
  readonly denoised: number;
  readonly noise: number;
  readonly clip?: boolean;
  /** g and h; default none. */
  readonly guide?: number;
  readonly guideNoise?: number;
}

export interface AscendStep {
  readonly kind: 'ascend';
  readonly sigma: number;
  /** w. */
  readonly divisor: number;
  /** How far the probe of the curvature goes. */
  readonly probe: number;
  readonly rate: number;
  readonly least: number;
  readonly most: number;
  /** Images whose step is not above it stay as they are. */
  readonly stop: number;
}

export type Step = NoiseStep | DenoiseStep | AscendStep;

/** Network evaluations of a chain. */
export const evaluationsOf = (steps: readonly Step[]) =>
  steps.reduce((count, { kind }) => count + { noise: 0, denoise: 1, ascend: 2 }[kind], 0);

/** Standard normal numbers of the runner's shape, the same whenever asked for the same index. */
export type Noise = (index: number) => Tensor;

/**
 * First of the purposes of random numbers (engine/random.ts) that a chain uses; step i takes 2i for n and 2i + 1 for m.
 * Judgements and attacks never share any.
 */
const firstPurpose = { judge: 1 << 20, attack: 1 << 21 };

interface Pullback {
  readonly du: Tensor;
  readonly dimage: Tensor;
}

/** The state of a chain for N images on the device and the Programs of its steps. */
export class ChainRunner {
  /** [N, H, W, C]: the state, and the images in [-1, 1] that a guided step looks at. */
  readonly u: Tensor;
  readonly image: Tensor;
  readonly #noise: Tensor;
  readonly #cotangent: Tensor;
  readonly #waves: Tensor;
  readonly #numbers: Tensor;
  readonly #logitsCotangent: Tensor;
  readonly #programs = new Map<string, Program<unknown>>();

  constructor(
    readonly denoiser: Denoiser,
    readonly classifier: Classifier,
    readonly count: number,
  ) {
    const { device, unet, parameters } = denoiser;
    const make = (shape: readonly number[]) => device.keep(device.zeros(shape));
    const shape = [count, ...unet.imageShape];
    [this.u, this.image, this.#noise, this.#cotangent] = [make(shape), make(shape), make(shape), make(shape)];
    this.#waves = make([1, unet.waves(parameters, [0]).length]);
    this.#numbers = make([numbers.length]);
    this.#logitsCotangent = make([count, classifier.classes]);
  }

  /**
   * u = the last state of the chain that starts at `image`.
   * @param keep keep the state before every step; the caller disposes
   */
  async run(steps: readonly Step[], noise: Noise, keep: boolean): Promise<Tensor[]> {
    const { device } = this.denoiser;
    const states: Tensor[] = [];
    device.scope(() => copy(this.image, this.u));
    for (const [i, step] of steps.entries()) {
      if (keep) states.push(clone(this.u));
      if (step.kind === 'noise') device.scope(() => copy(noisy(this.u, step, noise(2 * i)), this.u));
      else {
        this.#load(step, i, noise);
        const program = await this.#program(keyOf(step), () =>
          copy(this.#apply(step)(this.u, this.image), this.u),
        );
        program.run();
      }
      // A few steps stay in flight.
      if (i % 8 === 7) await device.sync();
    }
    return states;
  }

  /** From the cotangent of the last state to that of `image`. @param states of `run`, with the same noise */
  async pullback(
    steps: readonly Step[],
    noise: Noise,
    states: readonly Tensor[],
    last: Tensor,
  ): Promise<Tensor> {
    const { device } = this.denoiser;
    let ahead = clone(last);
    let image = device.keep(device.zeros(this.image.shape));
    for (let i = steps.length - 1; i >= 0; i--) {
      const step = steps[i] as Step;
      const state = states[i] as Tensor;
      let next: Pullback;
      if (step.kind === 'noise') {
        next = device.scope(() => {
          const { pullback } = vjp((u) => noisy(u, step, noise(2 * i)), [state]);
          return { du: affine(pullback(ahead)[0] as Tensor, 1), dimage: affine(image, 1) };
        });
      } else {
        this.#load(step, i, noise);
        device.scope(() => {
          copy(state, this.u);
          copy(ahead, this.#cotangent);
        });
        const program = await this.#program(`${keyOf(step)} backward`, () => {
          const { pullback } = vjp(this.#apply(step), [this.u, this.image]);
          const [du, dimage] = pullback(this.#cotangent) as [Tensor, Tensor];
          return { du, dimage };
        });
        const found = program.run() as Pullback;
        next = device.scope(() => ({ du: affine(found.du, 1), dimage: add(image, found.dimage) }));
      }
      for (const tensor of [ahead, image]) tensor.dispose();
      [ahead, image] = [device.keep(next.du), device.keep(next.dimage)];
      if (i % 8 === 0) await device.sync();
    }
    const total = device.keep(device.scope(() => add(ahead, image)));
    for (const tensor of [ahead, image]) tensor.dispose();
    return total;
  }

  /** The images that u stands for, in [0, 1]. */
  images(): Tensor {
    const { device } = this.denoiser;
    return device.keep(device.scope(() => imagesOf(this.u)));
  }

  /** Logits of u's images. The caller disposes. */
  async logits(): Promise<Tensor> {
    const program = await this.#program('logits', () => ({
      logits: this.classifier.logits(imagesOf(this.u)),
    }));
    return clone((program.run() as { logits: Tensor }).logits);
  }

  /** Cotangent of the logits at the state `u` -> that of u, or of its images in [0, 1]. The caller disposes. */
  async logitsPullback(u: Tensor, cotangent: Tensor, of: 'u' | 'images'): Promise<Tensor> {
    this.denoiser.device.scope(() => {
      copy(u, this.u);
      copy(cotangent, this.#logitsCotangent);
    });
    const program = await this.#program(`logits backward ${of}`, () => {
      const { pullback } =
        of === 'u'
          ? vjp((v) => this.classifier.logits(imagesOf(v)), [this.u])
          : vjp((v) => this.classifier.logits(v), [imagesOf(this.u)]);
      return { d: pullback(this.#logitsCotangent)[0] as Tensor };
    });
    return clone((program.run() as { d: Tensor }).d);
  }

  /** Level, coefficients and noise of a step. */
  #load(step: DenoiseStep | AscendStep, i: number, noise: Noise): void {
    const { device, unet, parameters } = this.denoiser;
    const { time, ...scalings } = this.denoiser.scalings(step.sigma);
    this.#waves.write(unet.waves(parameters, [time]));
    const values = { keep: 0, denoised: 0, guide: 0, ...scalings, ...step };
    this.#numbers.write(numbers.map((name) => values[name]));
    if (step.kind === 'ascend') return;
    const { noise: s, guide = 0, guideNoise = 0 } = step;
    device.scope(() => {
      const h = guide * guideNoise;
      let total = s > 0 ? affine(noise(2 * i), s) : device.zeros(this.u.shape);
      if (h !== 0) total = add(total, affine(noise(2 * i + 1), h));
      copy(total, this.#noise);
    });
  }

  /** A step as a function of u and the image; what was loaded is read when it runs. */
  #apply(step: DenoiseStep | AscendStep): (u: Tensor, image: Tensor) => Tensor {
    const number = (name: (typeof numbers)[number]) =>
      reshape(slice(this.#numbers, 0, numbers.indexOf(name), 1), [1, 1, 1, 1]);
    const d = (u: Tensor) =>
      denoise(this.denoiser, u, this.#waves, { skip: number('skip'), out: number('out'), in: number('in') });
    if (step.kind === 'denoise') {
      return (u, image) => {
        const denoised = step.clip ? clamp(d(u), -1, 1) : d(u);
        const mixed = add(mul(u, number('keep')), mul(denoised, number('denoised')));
        return add(add(mixed, mul(image, number('guide'))), this.#noise);
      };
    }
    const { divisor, probe, rate, least, most, stop } = step;
    return (u) => {
      const inner = (a: Tensor, b: Tensor) => sum(mul(a, b), [1, 2, 3], { keepDims: true });
      const score = (v: Tensor) => affine(sub(d(v), v), 1 / divisor);
      const s = score(u);
      const beyond = score(add(u, affine(s, probe)));
      // 1 − z = ⟨s, s − s'⟩/⟨s, s⟩: the difference first, because z is nearly 1.
      const bend = div(inner(s, sub(s, beyond)), inner(s, s));
      // Where the score does not shrink the largest step is taken, as the limit from above.
      const alpha = clamp(div(affine(bend, 0, rate * probe), clamp(bend, 1e-12, 3e38)), least, most);
      const moving = sign(relu(affine(alpha, 1, -stop)));
      return clamp(add(u, mul(s, mul(alpha, moving))), -1, 1);
    };
  }

  async #program(name: string, f: () => unknown): Promise<Program<unknown>> {
    const known = this.#programs.get(name);
    if (known) return known;
    const program = this.denoiser.device.record(`chain ${name}`, f);
    this.#programs.set(name, program);
    return program.prepare();
  }

  dispose(): void {
    for (const program of this.#programs.values()) program.dispose();
    this.#programs.clear();
    const { u, image } = this;
    for (const t of [
      u,
      image,
      this.#noise,
      this.#cotangent,
      this.#waves,
      this.#numbers,
      this.#logitsCotangent,
    ])
      t.dispose();
  }
}

/** What changes from step to step. */
const numbers = ['skip', 'out', 'in', 'keep', 'denoised', 'guide'] as const;

/** Steps of one key share a Program. */
function keyOf(step: DenoiseStep | AscendStep): string {
  if (step.kind === 'denoise') return step.clip ? 'denoise clipped' : 'denoise';
  const { sigma: _, ...baked } = step;
  return JSON.stringify(baked);
}

const clone = (t: Tensor) => t.device.keep(t.device.scope(() => affine(t, 1)));
const imagesOf = (u: Tensor) => clamp(affine(u, 0.5, 0.5), 0, 1);

function noisy(u: Tensor, { noise, clip = false }: NoiseStep, n: Tensor): Tensor {
  const y = add(u, affine(n, noise));
  return clip ? clamp(y, -1, 1) : y;
}

/** The runners of a defence, by number of images: its surfaces and judgements share them. */
class Runners {
  readonly #known = new Map<number, ChainRunner>();

  constructor(
    readonly denoiser: Denoiser,
    readonly classifier: Classifier,
  ) {}

  of(x: Tensor, copies = 1): ChainRunner {
    const [n, ...image] = x.shape as [number, ...number[]];
    const { unet } = this.denoiser;
    check(
      String(image) === String(unet.imageShape),
      () => `purify: images are [${x.shape}], the network takes [N,${unet.imageShape}]`,
    );
    const count = n * copies;
    const known = this.#known.get(count);
    if (known) return known;
    const made = new ChainRunner(this.denoiser, this.classifier, count);
    this.#known.set(count, made);
    return made;
  }

  dispose(): void {
    for (const runner of this.#known.values()) runner.dispose();
    this.#known.clear();
  }
}

/** A chain before the classifier, one copy of every image, with its way back. */
class ThroughChain implements ProcessTarget {
  readonly classes: number;
  readonly randomised = true;

  constructor(
    readonly runners: Runners,
    readonly steps: readonly Step[],
    readonly backward: 'exact' | 'identity',
  ) {
    this.classes = runners.classifier.classes;
  }

  async process(x: Tensor, { seed, rows, step, known }: Draw): Promise<Process> {
    const { device } = this.runners.denoiser;
    const { steps, backward } = this;
    const runner = this.runners.of(x);
    // With a known seed those of the judgement's first copy.
    const own = known ? { first: firstPurpose.judge } : { first: firstPurpose.attack, step };
    const noise: Noise = (index) => {
      const { first, ...rest } = own;
      return randomNormal(device, x.shape, { seed, purpose: first + index, rows, ...rest });
    };
    device.scope(() => copy(affine(x, 2, -1), runner.image));
    const states = await runner.run(steps, noise, backward === 'exact');
    const end = clone(runner.u);
    const logits = await runner.logits();
    return {
      logits,
      pullback: async (cotangent) => {
        if (backward === 'identity') return runner.logitsPullback(end, cotangent, 'images');
        device.scope(() => copy(affine(x, 2, -1), runner.image));
        const last = await runner.logitsPullback(end, cotangent, 'u');
        const total = await runner.pullback(steps, noise, states, last);
        const dx = device.keep(device.scope(() => affine(total, 2)));
        for (const tensor of [last, total]) tensor.dispose();
        return dx;
      },
      dispose: () => {
        for (const tensor of [logits, end, ...states]) tensor.dispose();
      },
    };
  }
}

export interface ChainDefence {
  readonly name: string;
  readonly denoiser: Denoiser;
  readonly classifier: Classifier & { readonly imageShape?: readonly number[] };
  readonly steps: readonly Step[];
  /** A cheaper chain that stands for the whole one under attack (Lee & Kim 2023), with what it is in one line. */
  readonly short?: { readonly steps: readonly Step[]; readonly summary: string };
  /** Independent purifications of an image that vote. */
  readonly copies: number;
  readonly settings: Readonly<Record<string, unknown>>;
}

/**
 * A purifier as a defended classifier. Surfaces: `full`, exact reverse mode through every step; `bpda`, the whole chain
 * forward and the identity backward; `short`, a shorter chain, exactly; `classifier`, the bare one (transfer). Each
 * evaluation of a surface is one purification with noise of its own; the vote over copies is left to EOT.
 * @throws InputError when network and classifier do not take the same images, or copies are out of range
 */
export function chainDefence(defence: ChainDefence): Defence {
  const { name, denoiser, classifier, steps, short, copies } = defence;
  const { device } = denoiser;
  checkSettings(name, [['copies', copies, whole(copies, 1, 1000), 'an integer of 1 to 1000']]);
  checkFit(denoiser.unet.imageShape, classifier);
  const runners = new Runners(denoiser, classifier);
  const evaluations = evaluationsOf(steps);
  const surface = (
    chain: readonly Step[],
    backward: 'exact' | 'identity',
    summary: string,
  ): AttackSurface => ({
    target: new ThroughChain(runners, chain, backward),
    knowledge: 'adaptive',
    exact: backward === 'exact',
    // Of the pair of a forward and a backward pass: forward alone, or forward, forward again and backward.
    cost: 1 + evaluationsOf(chain) * (backward === 'exact' ? 1.5 : 0.5),
    summary,
  });
  const purify = async (x: Tensor, chain: readonly Step[], seed: number, imageIds: readonly number[]) => {
    const [n, ...image] = x.shape as [number, ...number[]];
    const runner = runners.of(x, copies);
    const rows = device.keep(device.tensor(imageIds, [n], 'u32'));
    const each = [n, copies, ...image];
    const flat = [n * copies, ...image];
    try {
      device.scope(() => {
        const repeated = broadcastTo(reshape(affine(x, 2, -1), [n, 1, ...image]), each);
        copy(reshape(repeated, flat), runner.image);
      });
      const noise: Noise = (index) => {
        const purpose = firstPurpose.judge + index;
        return reshape(randomNormal(device, each, { seed, purpose, rows }), flat);
      };
      await runner.run(chain, noise, false);
      const images = runner.images();
      const purified = device.keep(device.scope(() => affine(reshape(images, each), 1)));
      images.dispose();
      return purified;
    } finally {
      rows.dispose();
    }
  };
  return {
    name,
    classes: classifier.classes,
    randomised: true,
    settings: { ...defence.settings, network: denoiser.kind },
    classifier,
    surfaces: {
      classifier: bareSurface(classifier, 'transfer'),
      bpda: surface(steps, 'identity', 'the whole chain forward, taken for the identity backward (BPDA)'),
      ...(short ? { short: surface(short.steps, 'exact', short.summary) } : {}),
      full: surface(steps, 'exact', `reverse mode through all ${steps.length} steps, each computed again`),
    },
    surface: 'full',
    passes: copies * (evaluations + 1),
    dispose: () => runners.dispose(),
    async judge(x, { seed, imageIds }) {
      const purified = await purify(x, steps, seed, imageIds);
      return { votes: await classifyByVote(classifier, purified), purified };
    },
    async estimate(x) {
      const ids = Array.from({ length: x.shape[0] as number }, (_, i) => i);
      const few = async (count: number) => {
        const began = performance.now();
        const part = steps.slice(0, count);
        const purified = await purify(x, part, 0, ids);
        await purified.floats();
        purified.dispose();
        return { seconds: (performance.now() - began) / 1000, evaluations: evaluationsOf(part) };
      };
      await few(2); // compiles
      const measured = await few(4);
      return (measured.seconds * evaluations) / Math.max(1, measured.evaluations);
    },
  };
}

/** @throws InputError naming the defence, the setting, its value and its rule */
export function checkSettings(
  defence: string,
  rules: readonly (readonly [name: string, value: unknown, holds: boolean, rule: string])[],
): void {
  for (const [name, value, holds, rule] of rules)
    if (!holds) throw new InputError(`${defence}: ${name} must be ${rule}, got ${value}`);
}

/** Whether v is an integer of `least` to `most`. */
export const whole = (v: number, least: number, most: number) =>
  Number.isInteger(v) && v >= least && v <= most;
