import { conv2d } from '../../src/kernels/conv2d.ts';
import { checkOp } from '../support.ts';

checkOp('conv2d', {
  run: ({ x, w, bias }, { stride, padding }) => conv2d(x, w, { bias, stride, padding }),
});
