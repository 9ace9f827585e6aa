/**
 * The losses that attacks maximise, one number an image, as differentiable functions of logits z.
 *
 * With y the true class, t the wanted one, π the classes by falling logit:
 *   ce          −log softmax(z)_y                            targeted:   log softmax(z)_t
 *   margin      max_{j≠y} z_j − z_y                          targeted:   z_t − max_{j≠t} z_j
 *               (Carlini & Wagner 2017, f6, without clipping)
 *   dlr         −(z_y − max_{j≠y} z_j) / (z_π1 − z_π3)        targeted:   −(z_y − z_t) / (z_π1 − (z_π3 + z_π4)/2)
 *               (Croce & Hein 2020, Eq. 6 and 7; invariant to shift and scale of the logits)
 *   difference                                               targeted:   z_t − z_y  (the boundary of FAB-T)
 */
import { differentiable } from '../engine/autograd.ts';
import { check, InputError } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Tensor } from '../engine/tensor.ts';
import { crossEntropy } from '../kernels/cross-entropy.ts';
import { affine } from '../kernels/elementwise.ts';
import lossSource from './logit-loss.wgsl';
import backwardSource from './logit-loss-backward.wgsl';

export const lossNames = ['ce', 'margin', 'dlr', 'difference'] as const;
export type LossName = (typeof lossNames)[number];

/** (logits [N,C], true classes u32 [N], wanted classes u32 [N]) -> [N]; the attack makes it large. */
export type Loss = (logits: Tensor, labels: Tensor, targets: Tensor) => Tensor;

/** Classes that a loss needs: DLR divides by a difference to the third or fourth largest logit. */
const classesNeeded = (name: LossName, targeted: boolean) => (name !== 'dlr' ? 2 : targeted ? 4 : 3);

/**
 * A loss by name.
 * @throws InputError for an unknown name, `difference` without a target, or too few classes
 */
export function attackLoss(name: LossName, targeted: boolean, classes: number): Loss {
  if (!lossNames.includes(name))
    throw new InputError(`loss "${name}" is not known; there are ${lossNames.join(', ')}`);
  if (name === 'difference' && !targeted)
    throw new InputError(
      'loss "difference" is between a wanted class and the true one; make the attack targeted',
    );
  const needed = classesNeeded(name, targeted);
  if (classes < needed)
    throw new InputError(
      `the ${targeted ? 'targeted ' : ''}${name} loss needs ${needed} classes, the classifier has ${classes}; take the margin or ce loss (of AutoAttack: version custom of apgd-ce, fab-t and square)`,
    );
  if (name === 'ce') {
    return targeted
      ? (logits, _, targets) => affine(crossEntropy(logits, targets), -1)
      : (logits, labels) => crossEntropy(logits, labels);
  }
  const modes = { margin: [0, 1], dlr: [2, 3], difference: [4, 4] } as const;
  const mode = modes[name][targeted ? 1 : 0];
  return (logits, labels, targets) => logitLoss(logits, labels, targets, mode);
}

/** A loss that depends on at most five logits of a row, its taps; forward keeps their classes and derivatives. */
function logitLoss(logits: Tensor, labels: Tensor, targets: Tensor, MODE: number): Tensor {
  const { device } = logits;
  check(logits.rank === 2, () => `attack loss: logits [${logits.shape}] is not [N,C]`);
  const [rows, classes] = logits.shape as [number, number];
  for (const [name, t] of Object.entries({ labels, targets })) {
    check(
      t.dtype === 'u32' && t.size === rows,
      () => `attack loss: ${name} is ${t.dtype} [${t.shape}], wanted u32 [${rows}]`,
    );
  }
  const loss = device.empty([rows]);
  const taps = device.empty([rows, 5], 'u32');
  const weights = device.empty([rows, 5]);
  device.run(
    kernel('logit-loss', lossSource, { MODE }),
    { z: logits, labels, targets, loss, taps, weights },
    { rows, classes },
    linearGrid(rows, 16),
  );
  // dz_c = dy · Σ of the weights whose tap is c.
  return differentiable('logitLoss', [logits], loss, (dy) => {
    const dz = device.empty(logits.shape);
    device.run(
      kernel('logit-loss-backward', backwardSource),
      { taps, weights, dy, dz },
      { count: dz.size, classes },
      linearGrid(dz.size),
    );
    return [dz];
  });
}
