/**
 * Training classifiers: cross-entropy with label smoothing and mixup (Zhang et al. 2018), adversarial training (Madry et
 * al. 2018) and TRADES (Zhang et al. 2019). The attack is part of the step's Program; it sees the running statistics,
 * the update those of the batch.
 */
import { noGrad, valueAndGrad } from '../engine/autograd.ts';
import type { Device } from '../engine/device.ts';
import { InputError } from '../engine/errors.ts';
import { purposes, randomNormal, randomUniform } from '../engine/random.ts';
import type { Tensor } from '../engine/tensor.ts';
import { add, mul, sub } from '../kernels/broadcast.ts';
import { crossEntropy } from '../kernels/cross-entropy.ts';
import { affine, clamp, exp, sign } from '../kernels/elementwise.ts';
import { sum } from '../kernels/reduce.ts';
import { logSoftmax } from '../kernels/softmax.ts';
import type { ClassifierNet } from '../nets/classifier.ts';
import type { Parameters } from '../nets/parameters.ts';
import type { Recompute } from '../nets/recompute.ts';
import type { BatchSource } from './batches.ts';
import { beta, uniforms } from './draws.ts';
import { layerDropout } from './levels.ts';
import { type Recipe, type Rows, rowIds, rowsOf } from './recipe.ts';
import type { ParameterStore } from './store.ts';

export interface ClassifierOptions {
  readonly batch: number;
  readonly seed: number;
  /** Label smoothing, 0 to 1. */
  readonly smoothing?: number;
  /** α of mixup's Beta(α, α); 0 is none. */
  readonly mixup?: number;
  readonly adversarial?: AdversarialOptions;
  /** Share of dropped activations, where the network has a place for it; 0. Attacks drop none. */
  readonly dropout?: number;
  /** Activation checkpointing, in attacks too. */
  readonly recompute?: Recompute;
}

export interface AdversarialOptions {
  /** Train on attacked images, or on clean ones with a penalty on how far attacks move the prediction. */
  readonly method: 'pgd' | 'trades';
  /** Radius of the L∞ ball, in [0, 1] pixels. */
  readonly eps: number;
  readonly steps: number;
  readonly stepSize: number;
  /** TRADES' weight of the penalty; 6. */
  readonly beta?: number;
}

/** Replaces what is drawn at random, for comparisons with other programs. */
export interface GivenDraws {
  /** Mixup: the share of an image, and how far behind it its partner is in the batch. */
  mix?(step: number): { readonly share: number; readonly distance: number };
  /** Where attacks begin, [B, H, W, C]: uniform in [0, 1) for pgd, standard normal for trades. */
  start?(step: number): Float32Array;
}

export class ClassifierRecipe implements Recipe {
  readonly device: Device;
  readonly #images: Tensor;
  readonly #labels: Tensor;
  /** Of mixup: the partner's images and labels, and the share of the first. */
  readonly #other: { images: Tensor; labels: Tensor; share: Tensor; rest: Tensor } | null;
  readonly #step: Tensor;
  readonly #start: Tensor | null;

  constructor(
    readonly net: ClassifierNet,
    readonly store: ParameterStore,
    readonly source: BatchSource,
    readonly options: ClassifierOptions,
    readonly given: GivenDraws = {},
  ) {
    const { device } = net;
    const { batch, mixup = 0, smoothing = 0, adversarial } = options;
    if (!(mixup >= 0 && mixup <= 2)) throw new InputError(`mixup must be in [0, 2], got ${mixup}`);
    if (!(smoothing >= 0 && smoothing <= 1))
      throw new InputError(`smoothing must be in [0, 1], got ${smoothing}`);
    if (adversarial && mixup > 0)
      throw new InputError('mixup and adversarial training exclude each other; set mixup=0');
    if (adversarial && !(adversarial.eps > 0 && adversarial.steps >= 1 && adversarial.stepSize > 0))
      throw new InputError('adversarial training wants eps, attack_steps and step_size above 0');
    this.device = device;
    const image = [batch, ...net.imageShape];
    const images = () => device.keep(device.zeros(image));
    const labels = () => device.keep(device.zeros([batch], 'u32'));
    this.#images = images();
    this.#labels = labels();
    const one = () => device.keep(device.zeros([1]));
    this.#other = mixup > 0 ? { images: images(), labels: labels(), share: one(), rest: one() } : null;
    this.#step = device.keep(device.zeros([1], 'u32'));
    this.#start = given.start ? images() : null;
  }

  get batch(): number {
    return this.options.batch;
  }

  load(step: number): void {
    const { seed, mixup = 0, batch } = this.options;
    const { images, labels } = this.source.at(step);
    this.#images.write(images);
    this.#labels.write(labels);
    this.#step.write([step]);
    if (this.given.start) this.#start?.write(this.given.start(step));
    if (!this.#other) return;
    const { share, distance } = this.given.mix?.(step) ?? drawMix(mixup, batch, seed, step);
    const size = images.length / batch;
    const others = new Float32Array(images.length);
    const names = new Uint32Array(batch);
    for (let i = 0; i < batch; i++) {
      const j = (i + distance) % batch;
      others.set(images.subarray(j * size, (j + 1) * size), i * size);
      names[i] = labels[j] as number;
    }
    this.#other.images.write(others);
    this.#other.labels.write(names);
    this.#other.share.write([share]);
    this.#other.rest.write([1 - share]);
  }

  loss(p: Parameters, rows: Rows): Tensor {
    const { net, options } = this;
    const { smoothing = 0, adversarial, dropout: rate = 0, seed, recompute } = options;
    const [x, labels, other] = [rowsOf(this.#images, rows), rowsOf(this.#labels, rows), this.#other];
    const drop = layerDropout({ rate, seed, step: this.#step, first: rows.first });
    const logitsOf = (input: Tensor) => net.logitsOf(p, input, { dropout: drop, recompute });
    if (other) {
      const mixed = add(mul(x, other.share), mul(rowsOf(other.images, rows), other.rest));
      const logits = logitsOf(mixed);
      const first = mul(crossEntropy(logits, labels, { smoothing }), other.share);
      const second = crossEntropy(logits, rowsOf(other.labels, rows), { smoothing });
      return add(first, mul(second, other.rest));
    }
    if (!adversarial) return crossEntropy(logitsOf(x), labels, { smoothing });
    const attacked = this.#attack(x, labels, rows, adversarial);
    if (adversarial.method === 'pgd') return crossEntropy(logitsOf(attacked), labels, { smoothing });
    // CE(f(x), y) + β KL(f(x) ‖ f(x′)).
    const clean = logitsOf(x);
    const penalty = divergence(clean, logitsOf(attacked));
    return add(crossEntropy(clean, labels, { smoothing }), affine(penalty, adversarial.beta ?? 6));
  }

  /** Ascends from a random point with signed steps: the cross-entropy, or for TRADES the divergence from the clean prediction. */
  #attack(
    x: Tensor,
    labels: Tensor,
    rows: Rows,
    { method, eps, steps, stepSize }: AdversarialOptions,
  ): Tensor {
    const { device, net, options, store } = this;
    return noGrad(() => {
      const random = {
        seed: options.seed,
        purpose: purposes.attackStart,
        step: this.#step,
        rows: rowIds(device, rows),
      };
      const still = store.parameters;
      const clean = method === 'trades' ? net.logitsOf(still, x) : null;
      const draw = method === 'trades' ? randomNormal : randomUniform;
      const start = this.#start ? rowsOf(this.#start, rows) : draw(device, x.shape, random);
      const offset = method === 'trades' ? affine(start, 0.001) : affine(start, 2 * eps, -eps);
      let at = clamp(add(x, offset), 0, 1);
      for (let i = 0; i < steps; i++) {
        const { gradients } = valueAndGrad(
          (u) => {
            const logits = net.logitsOf(still, u, { recompute: options.recompute });
            return sum(clean ? divergence(clean, logits) : crossEntropy(logits, labels));
          },
          [at],
        );
        const moved = add(at, affine(sign(gradients[0] as Tensor), stepSize));
        at = clamp(add(x, clamp(sub(moved, x), -eps, eps)), 0, 1);
      }
      return at;
    });
  }

  dispose(): void {
    const others = Object.values(this.#other ?? {});
    for (const t of [this.#images, this.#labels, this.#step, this.#start, ...others]) t?.dispose();
  }
}

/** The share of an update's mixup; partners go round by a random distance: every image is one once. */
function drawMix(alpha: number, batch: number, seed: number, step: number) {
  const draw = uniforms({ seed, purpose: purposes.trainingLevel, step, row: 0 });
  const share = beta(alpha, draw);
  return { share, distance: batch > 1 ? 1 + Math.floor(draw.next().value * (batch - 1)) : 0 };
}

/** KL(p ‖ q) of the softmax of two sets of logits [N, C]: Σ_c p (ln p − ln q), [N]. */
export function divergence(p: Tensor, q: Tensor): Tensor {
  const [a, b] = [logSoftmax(p), logSoftmax(q)];
  return sum(mul(exp(a), sub(a, b)), [1]);
}
