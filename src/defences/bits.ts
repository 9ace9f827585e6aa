/**
 * Bit-depth reduction (Xu et al. 2018, "Feature squeezing", Sec. III-A; Guo et al. 2018): pixels are rounded to 2^b
 * levels. Known to be broken (Athalye et al. 2018, "Obfuscated gradients give a false sense of security", Sec. 5.2):
 * its derivative is zero almost everywhere, which stops gradient attacks until the backward pass is taken as the
 * identity (BPDA). It stands here to show that the harness sees both.
 */
import { type Classifier, classify } from '../cmap/vote.ts';
import { differentiable } from '../engine/autograd.ts';
import { InputError } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Tensor } from '../engine/tensor.ts';
import { affine } from '../kernels/elementwise.ts';
import { reshape } from '../kernels/shape.ts';
import source from './bit-depth.wgsl';
import { type AttackSurface, bareSurface, type Defence, single } from './defence.ts';

/** y = round(x (2^bits − 1)) / (2^bits − 1). @param backward the identity (BPDA), or the derivative, which is zero */
export function bitDepth(x: Tensor, bits: number, backward: 'identity' | 'derivative'): Tensor {
  const { device } = x;
  const y = device.empty(x.shape);
  device.run(
    kernel('bit-depth', source),
    { x, y },
    { count: x.size, levels: 2 ** bits - 1 },
    linearGrid(x.size),
  );
  return differentiable('bitDepth', [x], y, (dy) => [backward === 'identity' ? dy : device.full(x.shape, 0)]);
}

/** @param bits levels are 2^bits, 1 to 8 @throws InputError */
export function bitDepthDefence(classifier: Classifier, bits: number): Defence {
  if (!Number.isInteger(bits) || bits < 1 || bits > 8)
    throw new InputError(`bits must be an integer of 1 to 8, got ${bits}`);
  const { classes } = classifier;
  const through = (backward: 'identity' | 'derivative', summary: string): AttackSurface => ({
    target: { classes, logits: (x) => classifier.logits(bitDepth(x, bits, backward)) },
    knowledge: 'adaptive',
    exact: false,
    decides: true,
    summary,
  });
  return {
    name: 'bits',
    classes,
    randomised: false,
    settings: { bits },
    classifier,
    surfaces: {
      classifier: bareSurface(classifier, 'transfer'),
      bpda: through('identity', 'forward through the rounding, backward as if it were the identity'),
      derivative: through('derivative', 'the rounding’s own derivative, which is zero: no attack at all'),
    },
    surface: 'bpda',
    passes: 1,
    async judge(x) {
      const purified = x.device.scope(() => {
        const y = bitDepth(x, bits, 'identity');
        const [n, ...image] = x.shape as [number, ...number[]];
        return reshape(affine(y, 1), [n, 1, ...image]);
      });
      const flat = x.device.scope(() => reshape(purified, x.shape));
      const labels = await classify(classifier, flat);
      flat.dispose();
      return { votes: single(labels, classes), purified };
    },
  };
}
