/**
 * CMAP's own adaptive attack, consistency disruption (Eq. 15, Algorithm 2): adversarial images are sought among those
 * that the consistency model itself makes, by the defence's objective with a classification term,
 *
 *   min_z  L_a(P(G(z_k)), x) + λ L_d − τ CE(h(P(G(z_k))), y),   P the projection onto the eps-ball around x and [0, 1].
 *
 * The first T_def iterations are the plain defence on the clean x; then the same Adam goes on with Eq. 15, up to T in
 * all. Losses are summed over the K·H·W·C elements, CE over the K images and weighted by τ·K, as published; so τ's
 * published values apply: CIFAR-10 2e6 (L∞) and 1e9 (L2), ImageNet-100 400 and 1e7 (the released 2 and 5e4 are of losses
 * times 0.005, which are not scaled here; Adam knows their ratio alone). This is the form of the equation.
 *
 * `form: 'released'` is what the released code computes (github.com/ZSHsh98/CMAP, eval_adaptive_adv_purification_cmap.py):
 * P does not cut to [0, 1], and for L2 always scales to eps; SSIM compares G(z_k) before P; the cross-entropy runs over
 * the B images of a batch, of the probabilities p of the true class, −log(exp p_k(b, y_b) / Σ_b' exp p_k(b', y_b)); and
 * the candidates are those before the last update. It is for comparisons; its results depend on the batch (published: 5 images
 * of CIFAR-10, 10 of ImageNet-100), and of one image its class term is 0. There the defence then restores each of the K
 * candidates by the latent of its number and lets all vote; here one is chosen, as in the other forms.
 *
 * `form: 'latent'` looks for latents whose own image is misclassified and nearest to x, and only then projects:
 *
 *   min_z  L_a(G(z_k), x) + λ L_d + τ max(κ − margin(h(G(z_k))), 0),  margin = max_{j≠y} z_j − z_y,  κ = 1
 *
 * so that the defence, given P(G(z*)), has a minimum at z* whose image is of another class.
 *
 * It yields K candidates an image. One is returned: that which the defence itself judges worst, where it is given (the
 * attacker has it), else that of which the bare classifier's cross-entropy is highest. `candidates` of the result are all
 * of them, for a defence that restores each with the latent of its number.
 *
 * The trace has an entry an iteration of the attack: the classification term, CE or minus the hinge, mean over the K
 * candidates, and the share of them that the bare classifier misreads; then one for the answer.
 */
import { generate, objective } from '../cmap/objective.ts';
import { type CmapOptions, checkCmapOptions } from '../cmap/options.ts';
import type { Classifier } from '../cmap/vote.ts';
import { vjp } from '../engine/autograd.ts';
import { InputError } from '../engine/errors.ts';
import { randomNormal } from '../engine/random.ts';
import type { Tensor } from '../engine/tensor.ts';
import { Adam } from '../kernels/adam.ts';
import { add, div, sub } from '../kernels/broadcast.ts';
import { crossEntropy } from '../kernels/cross-entropy.ts';
import { affine, clamp, relu, sqrt, square } from '../kernels/elementwise.ts';
import { matmul } from '../kernels/matmul.ts';
import { argmax, sum } from '../kernels/reduce.ts';
import { reshape } from '../kernels/shape.ts';
import { softmax } from '../kernels/softmax.ts';
import { ssimTarget } from '../kernels/ssim.ts';
import type { ConsistencyModel } from '../nets/consistency.ts';
import { mean } from '../report/statistics.ts';
import { copy, shortened } from './ascent.ts';
import {
  type Attack,
  type AttackHooks,
  type AttackResult,
  checkBall,
  checkCount,
  Job,
  l2Safety,
  type Norm,
  Slots,
  streams,
} from './attack.ts';
import { attackLoss } from './losses.ts';
import type { Target } from './target.ts';

export interface DisruptionOptions {
  readonly norm: Norm;
  readonly eps: number;
  /** K, lr, betas, α, λ, and the seed of the latents; `iterations` is T_def. */
  readonly cmap: CmapOptions;
  /** T: iterations in all, published 1000. */
  readonly steps: number;
  /** τ. */
  readonly tau: number;
  /** Default equation. */
  readonly form?: 'equation' | 'released' | 'latent';
  /** Starting latents [B, K, H, W, C] of one batch instead of random ones. */
  readonly latents?: Tensor;
  /** Chooses among the candidates: how often the defence is wrong about each image, in [0, 1]. */
  readonly judge?: CandidateJudge;
}

/** @param x [N, H, W, C] in [0, 1] @param round which of the K candidates: draw anew for each */
export type CandidateJudge = (
  x: Tensor,
  labels: readonly number[],
  imageIds: readonly number[],
  round: number,
) => Promise<number[]>;

export interface DisruptionResult extends AttackResult {
  /** [N, K, H, W, C]. */
  readonly candidates: Tensor;
}

/** τ of form latent: the hinge outweighs the distance until it is met. */
export const latentTau = 1e4;

/** κ of form latent. */
const kappa = 1;

/** τ of the released scripts: CIFAR-10's, and for images from 64 pixels on ImageNet-100's. 0 for L1, which they do not have. */
export function publishedTau(norm: Norm, side: number): number {
  const large = side >= 64;
  return { Linf: large ? 400 : 2e6, L2: large ? 1e7 : 1e9, L1: 0 }[norm];
}

export class Disruption implements Attack {
  readonly name: string;
  readonly norm: Norm;
  readonly eps: number;

  /** @param classifier the bare one, whose loss Eq. 15 raises @throws InputError for an option out of range */
  constructor(
    readonly model: ConsistencyModel,
    readonly classifier: Classifier,
    readonly options: DisruptionOptions,
  ) {
    checkBall(options.norm, options.eps);
    if (options.norm === 'L1')
      throw new InputError(
        'disruption: the attack is defined for Linf and L2, not for L1; give --norm Linf or L2',
      );
    checkCmapOptions(options.cmap);
    checkCount('steps', options.steps);
    if (options.steps <= options.cmap.iterations)
      throw new InputError(
        `disruption: ${options.steps} steps in all leave none after the ${options.cmap.iterations} of the defence`,
      );
    if (!(options.tau > 0 && Number.isFinite(options.tau)))
      throw new InputError(`disruption: tau must be a positive number, got ${options.tau}`);
    this.name = options.form === 'latent' ? 'target-latent' : 'disruption';
    this.norm = options.norm;
    this.eps = options.eps;
  }

  /** The target is not asked: candidates are made with the classifier alone, and are then given to the defence. */
  async run(
    target: Target,
    x: Tensor,
    labels: readonly number[],
    hooks: AttackHooks = {},
  ): Promise<DisruptionResult> {
    const { model, classifier, options } = this;
    const { cmap, steps, tau, norm, eps, form = 'equation' } = options;
    const released = form === 'released';
    const { k, alpha, lambda, distance } = cmap;
    const { device } = x;
    const job = await Job.open(this.name, target, x, labels, this, hooks);
    const slots = new Slots(job);
    const { batch: b, size } = { batch: slots.batch, size: job.size };
    if (released && (job.count % b > 0 || b < 2))
      throw new InputError(
        `disruption: the released form compares the images of whole batches of at least 2, and ${job.count} images are in batches of ${b}; give a --batch that divides them`,
      );
    const [height, width, channels] = model.imageShape;
    const shape = [b, k, height, width, channels];
    const z = device.keep(device.zeros(shape));
    const adam = new Adam(device, z, { lr: cmap.lr, betas: cmap.betas, eps: 1e-8 });
    const sigma = model.sigmas.max;
    model.prepare(sigma);
    const labelsOfAll = device.keep(device.zeros([b * k], 'u32'));
    const project = (g: Tensor) => projection(affine(g, 0.5, 0.5), slots, norm, eps, k, released);
    const margin = attackLoss('margin', false, classifier.classes);
    // Released: a row an image and latent, one at its place in k·classes + y.
    const chosen = device.keep(device.zeros(released ? [b * k, k * classifier.classes] : [1]));
    const places = Array.from({ length: b * k }, (_, i) => Math.floor(i / k));
    const place = device.keep(device.tensor(places, [b * k], 'u32'));
    const classTerm = (logits: Tensor): Tensor => {
      if (form === 'latent')
        return affine(relu(affine(margin(logits, labelsOfAll, labelsOfAll), -1, kappa)), -1);
      if (!released) return crossEntropy(logits, labelsOfAll);
      const p = reshape(softmax(logits), [b, k * classifier.classes]);
      return crossEntropy(matmul(chosen, p, { transposeB: true }), place);
    };
    /** One Adam step on Eq. 9, or on Eq. 15 where `disrupt`. */
    const step = (disrupt: boolean) => () => {
      const wanted = { target: affine(slots.clean, 2, -1), similarity: ssimTarget(slots.clean) };
      let logits: Tensor | null = null;
      let term: Tensor | null = null;
      const { pullback } = vjp(
        (u) => {
          const g = generate(model, u);
          const images = disrupt ? (form === 'latent' ? affine(g, 0.5, 0.5) : project(g)) : null;
          const compared = images ? affine(images, 2, -1) : g;
          const parts = objective(u, compared, wanted, { alpha, lambda, sigma, distance });
          let total = parts.total;
          if (images && released) {
            const own = objective(u, g, wanted, { alpha, lambda, sigma, distance });
            total = add(total, affine(sub(parts.ssim, own.ssim), alpha));
          }
          const loss = affine(sum(total), k * size);
          if (!images) return loss;
          logits = classifier.logits(images);
          term = classTerm(logits);
          return sub(loss, affine(sum(term), tau * k));
        },
        [z],
      );
      adam.step(pullback() as [Tensor]);
      return { term: term as Tensor | null, label: logits ? argmax(logits) : null };
    };
    const plain = device.record('disruption: defence', step(false));
    const attack = device.record('disruption: attack', step(true));
    const end = device.record('disruption: candidates', () => {
      const inside = project(generate(model, z));
      const images = released ? clamp(inside, 0, 1) : inside;
      const logits = classifier.logits(images);
      return { images, loss: crossEntropy(logits, labelsOfAll), label: argmax(logits) };
    });
    const each = k * size;
    const candidates = new Float32Array(job.count * each);
    const passes = { forward: 0, backward: 0 };
    try {
      for (const program of [plain, attack, end]) await program.prepare();
      const groups = job.batches(job.all);
      let done = 0;
      for (const images of groups) {
        slots.load(images);
        labelsOfAll.write(slots.each(labels).flatMap((label) => new Array<number>(k).fill(label)));
        if (released) {
          const { classes } = classifier;
          const rows = new Float32Array(chosen.size);
          slots.each(labels).forEach((label, at) => {
            for (let j = 0; j < k; j++) rows[(at * k + j) * k * classes + j * classes + label] = 1;
          });
          chosen.write(rows);
        }
        device.scope(() => {
          if (options.latents) return copy(options.latents, z);
          const draw = { seed: cmap.seed, purpose: streams.attackLatents, step: 0, rows: slots.ids };
          copy(affine(randomNormal(device, shape, draw), sigma), z);
        });
        adam.reset();
        for (let t = 0; t < (released ? steps - 1 : steps); t++) {
          if (t < cmap.iterations) plain.run();
          else {
            const { term, label } = attack.run();
            const [terms, found] = await Promise.all([term?.floats(), label?.read()]);
            images.forEach((i, slot) => {
              const rows = Array.from({ length: k }, (_, j) => slot * k + j);
              job.trace[i]?.loss.push(mean(rows.map((r) => terms?.[r] as number)));
              job.trace[i]?.hit.push(mean(rows.map((r) => Number(found?.[r] !== labels[i]))));
            });
          }
          if (t % 4 === 3) await device.sync();
          hooks.onStep?.(done + t + 1, steps * groups.length);
        }
        done += steps;
        passes.forward += images.length * k * (steps + 1);
        passes.backward += images.length * k * steps;
        const { images: made, loss, label } = end.run();
        const [host, losses, found] = await Promise.all([made.floats(), loss.floats(), label.read()]);
        images.forEach((i, slot) => {
          const at = slot * k;
          // Rounding may have left the ball by a unit in the last place.
          for (let j = 0; j < each; j++) {
            const from = i * size + (j % size);
            const value = host[at * size + j] as number;
            host[at * size + j] = Math.min(
              job.high[from] as number,
              Math.max(job.low[from] as number, value),
            );
          }
          candidates.set(host.subarray(at * size, (at + k) * size), i * each);
        });
        const wrong = options.judge ? await judgeAll(job, images, host, k, options.judge) : null;
        images.forEach((i, slot) => {
          const rows = Array.from({ length: k }, (_, j) => slot * k + j);
          const value = (r: number) => [wrong?.[r] ?? 0, losses[r] as number] as const;
          const best = rows.reduce((a, c) => (larger(value(c), value(a)) ? c : a));
          job.keep(i, host, best, losses[best] as number);
          // As the defence says where it was asked, else the bare classifier.
          job.success[i] = wrong ? (wrong[best] as number) >= 0.5 : found[best] !== labels[i];
          job.trace[i]?.loss.push(losses[best] as number);
          job.trace[i]?.hit.push(wrong ? (wrong[best] as number) : Number(found[best] !== labels[i]));
        });
      }
      const kept = device.keep(device.tensor(candidates, [job.count, k, height, width, channels]));
      return { ...job.result(passes), candidates: kept };
    } finally {
      for (const part of [plain, attack, end, adam, slots, z, labelsOfAll, chosen, place]) part.dispose();
    }
  }
}

const larger = ([a, b]: readonly [number, number], [c, d]: readonly [number, number]) =>
  a > c || (a === c && b > d);

/** How often the defence is wrong about each of the K candidates of each image. */
async function judgeAll(
  job: Job,
  images: readonly number[],
  host: Float32Array,
  k: number,
  judge: CandidateJudge,
): Promise<number[]> {
  const { size } = job;
  const wrong = new Array<number>(images.length * k);
  const of = (list: readonly number[]) => images.map((i) => list[i] as number);
  for (let j = 0; j < k; j++) {
    const rows = new Float32Array(images.length * size);
    images.forEach((_, slot) => {
      const from = (slot * k + j) * size;
      rows.set(host.subarray(from, from + size), slot * size);
    });
    const x = job.device.keep(job.device.tensor(rows, [images.length, ...job.imageShape]));
    const each = await judge(x, of(job.labels), of(job.ids), j).finally(() => x.dispose());
    each.forEach((share, slot) => {
      wrong[slot * k + j] = share;
    });
  }
  return wrong;
}

/** P: cut to the ball and to [0, 1] (L∞), or scaled back to the ball, then cut to [0, 1] (L2). Released: see above. */
function projection(
  images: Tensor,
  { clean, low, high, batch }: Slots,
  norm: Norm,
  eps: number,
  k: number,
  released: boolean,
): Tensor {
  const [, ...image] = images.shape;
  const byImage = reshape(images, [batch, k, ...image]);
  const single = (t: Tensor) => reshape(t, [batch, 1, ...image]);
  if (norm === 'Linf' && released) {
    return reshape(add(single(clean), clamp(sub(byImage, single(clean)), -eps, eps)), images.shape);
  }
  if (norm === 'Linf') {
    // low + min(max(y − low, 0), high − low), min(a, w) being w − max(w − a, 0).
    const width = sub(single(high), single(low));
    const above = relu(sub(byImage, single(low)));
    return reshape(add(single(low), sub(width, relu(sub(width, above)))), images.shape);
  }
  const delta = sub(byImage, single(clean));
  const length = sqrt(affine(sum(square(delta), [2, 3, 4], { keepDims: true }), 1, 1e-20));
  const radius = eps * l2Safety;
  if (released) return reshape(add(single(clean), div(affine(delta, radius), length)), images.shape);
  return reshape(clamp(add(single(clean), shortened(delta, length, radius)), 0, 1), images.shape);
}
