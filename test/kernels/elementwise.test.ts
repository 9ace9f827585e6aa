import type { Tensor } from '../../src/engine/tensor.ts';
import * as elementwise from '../../src/kernels/elementwise.ts';
import { checkOp } from '../support.ts';

const functions: Readonly<Record<string, unknown>> = elementwise;

checkOp('elementwise', {
  run: ({ x }, { function: name, low, high, scale, shift }) => {
    if (name === 'clamp') return elementwise.clamp(x, low, high);
    if (name === 'affine') return elementwise.affine(x, scale, shift);
    return (functions[name] as (x: Tensor) => Tensor)(x);
  },
  // Kinks of abs, relu and clamp: a step across one is not a derivative.
  finiteDifferences: false,
});
