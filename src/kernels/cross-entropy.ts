/** Cross-entropy of logits and integer labels, one loss an image. */
import { differentiable } from '../engine/autograd.ts';
import type { Capabilities } from '../engine/capabilities.ts';
import { check, InputError } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { checkFloats, type Tensor } from '../engine/tensor.ts';
import forwardSource from './cross-entropy.wgsl';
import backwardSource from './cross-entropy-backward.wgsl';
import workgroupSource from './cross-entropy-workgroup.wgsl';

/** `registers`: one invocation a row. `workgroup`: one workgroup a row, for many classes on GPUs. */
export type CrossEntropyVariant = 'registers' | 'workgroup';

export interface CrossEntropyOptions {
  /** Weight of the uniform distribution in the target, 0 to 1; 0. */
  readonly smoothing?: number;
  /** Forces a kernel, for tests and measurements. */
  readonly variant?: CrossEntropyVariant;
}

/** Bits of a quiet NaN. */
const nan = 0x7fc00000;

/** Which kernel computes the loss. A pure function. */
export function chooseCrossEntropyKernel(
  shape: { classes: number },
  capabilities: Pick<Capabilities, 'cpu'>,
  forced?: CrossEntropyVariant,
): { readonly variant: CrossEntropyVariant; readonly threads: number } {
  const variant = forced ?? (capabilities.cpu || shape.classes <= 32 ? 'registers' : 'workgroup');
  return {
    variant,
    threads: variant === 'registers' ? 0 : ([32, 64, 128].find((t) => t >= shape.classes) ?? 256),
  };
}

/**
 * −Σ target · log softmax(logits), target = (1 − smoothing)·[c = label] + smoothing / C:
 * `torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction='none')`.
 * A label that is not a class makes its loss and gradient NaN; `checkLabels` names it where labels come from the host.
 * @param logits [N,C]
 * @param labels u32 [N]
 * @returns [N]
 * @throws ShapeError when the shapes do not fit or smoothing is outside 0..1
 */
export function crossEntropy(logits: Tensor, labels: Tensor, options: CrossEntropyOptions = {}): Tensor {
  const { device } = logits;
  const { smoothing = 0 } = options;
  checkFloats('crossEntropy', { logits });
  check(logits.rank === 2 && logits.size > 0, () => `crossEntropy: logits [${logits.shape}] is not [N,C]`);
  const [rows, classes] = logits.shape as [number, number];
  check(labels.dtype === 'u32', () => `crossEntropy: labels are ${labels.dtype}, not u32`);
  check(
    labels.rank === 1 && labels.size === rows,
    () => `crossEntropy: labels [${labels.shape}] is not [${rows}], the rows of logits [${logits.shape}]`,
  );
  check(smoothing >= 0 && smoothing <= 1, () => `crossEntropy: smoothing ${smoothing} is outside 0..1`);
  const { variant, threads } = chooseCrossEntropyKernel({ classes }, device.capabilities, options.variant);
  const loss = device.empty([rows]);
  const norms = device.empty([rows, 2]);
  const onWorkgroups = variant === 'workgroup';
  device.run(
    onWorkgroups
      ? kernel('cross-entropy-workgroup', workgroupSource, { THREADS: threads })
      : kernel('cross-entropy', forwardSource),
    { x: logits, labels, loss, norms },
    { rows, classes, smoothing, nan },
    onWorkgroups ? linearGrid(rows, 1) : linearGrid(rows, 16),
  );
  // dlogits = (softmax − target)·dy.
  return differentiable(
    'crossEntropy',
    [logits],
    loss,
    (dy) => {
      const dx = device.empty(logits.shape);
      device.run(
        kernel('cross-entropy-backward', backwardSource),
        { x: logits, labels, norms, dy, dx },
        { count: dx.size, classes, smoothing, nan },
        linearGrid(dx.size),
      );
      return [dx];
    },
    [labels],
  );
}

/**
 * Labels from the host, checked.
 * @throws InputError naming the first label that is not an integer in 0..classes-1
 */
export function checkLabels(labels: ArrayLike<number>, classes: number): Uint32Array {
  const out = new Uint32Array(labels.length);
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i] as number;
    if (!Number.isInteger(label) || label < 0 || label >= classes) {
      throw new InputError(`labels: label ${i} is ${label}, not an integer in 0..${classes - 1}`);
    }
    out[i] = label;
  }
  return out;
}
