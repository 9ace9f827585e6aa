import { linear, matmul } from '../../src/kernels/matmul.ts';
import { checkOp } from '../support.ts';

checkOp('matmul', {
  run: ({ x, w, bias, a, b }, { linear: dense, ...options }) =>
    dense ? linear(x, w, bias) : matmul(a, b, options),
});
