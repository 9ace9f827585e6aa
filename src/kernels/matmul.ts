/**
 * Matrix products. Everything here is one function, `gemm`, on plain row-major matrices; a transposed operand is
 * read in place.
 */
import { differentiable } from '../engine/autograd.ts';
import { check } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Tensor } from '../engine/tensor.ts';
import directSource from './matmul-direct.wgsl';
import sumSource from './matmul-sum.wgsl';

export type MatmulVariant = 'direct';

export interface MatmulOptions {
  /** a is [K,M] or [B,K,M]. */
  readonly transposeA?: boolean;
  /** b is [N,K] or [B,N,K]. */
  readonly transposeB?: boolean;
  /** Factor on the product; 1. */
  readonly scale?: number;
  /** Forces a kernel, for tests and measurements. */
  readonly variant?: MatmulVariant;
}

/**
 * scale · a·b, over a batch where a has three dimensions; `torch.matmul`.
 * @param a [M,K] or [B,M,K]
 * @param b [K,N], shared by the batch, or [B,K,N]
 * @returns [M,N] or [B,M,N]
 * @throws ShapeError when the inner dimensions or the batches differ
 */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions = {}): Tensor {
  const { transposeA = false, transposeB = false, scale = 1, variant } = options;
  const y = gemm({ a, b, transposeA, transposeB, scale, variant });
  // da = s dy bᵀ, db = s aᵀ dy; for a transposed operand the transpose of that, with the factors exchanged.
  return differentiable('matmul', [a, b], y, (dy, needs) => {
    const da = () =>
      transposeA
        ? gemm({ a: b, b: dy, transposeA: transposeB, transposeB: true, scale, variant })
        : gemm({ a: dy, b, transposeB: !transposeB, scale, variant });
    const db = () => {
      if (a.rank === 3 && b.rank === 2) return sharedGradient(a, dy, options);
      return transposeB
        ? gemm({ a: dy, b: a, transposeA: true, transposeB: transposeA, scale, variant })
        : gemm({ a, b: dy, transposeA: !transposeA, scale, variant });
    };
    return [needs[0] ? da() : null, needs[1] ? db() : null];
  });
}

/** db for a b that the batch shares: the sum over the batch. */
function sharedGradient(
  a: Tensor,
  dy: Tensor,
  { transposeA, transposeB, scale, variant }: MatmulOptions,
): Tensor {
  const flat = (x: Tensor) => x.alias([x.size / (x.shape[2] as number), x.shape[2] as number]);
  if (!transposeA) {
    return transposeB
      ? gemm({ a: flat(dy), b: flat(a), transposeA: true, scale, variant })
      : gemm({ a: flat(a), b: flat(dy), transposeA: true, scale, variant });
  }
  const each = transposeB
    ? gemm({ a: dy, b: a, transposeA: true, transposeB: true, scale, variant })
    : gemm({ a, b: dy, scale, variant });
  const [batch, rows, columns] = each.shape as [number, number, number];
  return sumRows(each.alias([batch, rows * columns])).alias([rows, columns]);
}

/**
 * x·w + bias over the last axis; `torch.nn.functional.linear` with w transposed.
 * @param x [...,K]
 * @param w [K,N]
 * @param bias [N]
 * @returns [...,N]
 */
export function linear(
  x: Tensor,
  w: Tensor,
  bias?: Tensor,
  options: { variant?: MatmulVariant } = {},
): Tensor {
  const { variant } = options;
  check(
    x.rank >= 1 && w.rank === 2,
    () => `linear: x [${x.shape}] and w [${w.shape}] are not [...,K] and [K,N]`,
  );
  const [k, n] = w.shape as [number, number];
  check(
    x.shape.at(-1) === k,
    () => `linear: x [${x.shape}] has ${x.shape.at(-1)} features, w [${w.shape}] wants ${k}`,
  );
  check(
    !bias || (bias.rank === 1 && bias.shape[0] === n),
    () => `linear: bias [${bias?.shape}] is not [${n}]`,
  );
  const rows = x.alias([x.size / k, k]);
  const y = gemm({ a: rows, b: w, bias, variant }).alias([...x.shape.slice(0, -1), n]);
  // dx = dy wᵀ, dw = xᵀ dy, dbias = the column sums of dy.
  return differentiable('linear', bias ? [x, w, bias] : [x, w], y, (dy, needs) => {
    const flat = dy.alias([rows.size / k, n]);
    return [
      needs[0] ? gemm({ a: flat, b: w, transposeB: true, variant }).alias(x.shape) : null,
      needs[1] ? gemm({ a: x.alias([x.size / k, k]), b: flat, transposeA: true, variant }) : null,
      needs[2] ? sumRows(flat) : null,
    ];
  });
}

interface Gemm {
  readonly a: Tensor;
  readonly b: Tensor;
  readonly bias?: Tensor;
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  readonly scale?: number;
  readonly variant?: MatmulVariant;
}

/** scale · op(a)·op(b) + bias without a gradient; shapes as in `matmul`, and a may be shared by the batch of b. */
export function gemm({ a, b, bias, transposeA = false, transposeB = false, scale = 1 }: Gemm): Tensor {
  const { device } = a;
  const ranks = (x: Tensor) => x.rank === 2 || x.rank === 3;
  check(
    ranks(a) && ranks(b),
    () => `matmul: a [${a.shape}] and b [${b.shape}] are not matrices or batches of them`,
  );
  const [aRows, aColumns] = a.shape.slice(-2) as [number, number];
  const [bRows, bColumns] = b.shape.slice(-2) as [number, number];
  const [m, k] = transposeA ? [aColumns, aRows] : [aRows, aColumns];
  const [kOfB, n] = transposeB ? [bColumns, bRows] : [bRows, bColumns];
  const show = () =>
    `a [${a.shape}]${transposeA ? ' transposed' : ''}, b [${b.shape}]${transposeB ? ' transposed' : ''}`;
  check(k === kOfB, () => `matmul: inner dimensions ${k} and ${kOfB} differ: ${show()}`);
  const batch = a.rank === 3 ? (a.shape[0] as number) : b.rank === 3 ? (b.shape[0] as number) : 1;
  check(
    b.rank === 2 || a.rank === 2 || b.shape[0] === batch,
    () => `matmul: batches ${a.shape[0]} and ${b.shape[0]} differ: ${show()}`,
  );

  const y = device.empty(a.rank === 3 || b.rank === 3 ? [batch, m, n] : [m, n]);
  const wide = n % 4 === 0 && !transposeB;
  const v = wide ? 4 : 1;
  const count = y.size / v;
  device.run(
    kernel('matmul-direct', directSource, { T: wide ? 'vec4<f32>' : 'f32', BIAS: bias !== undefined }),
    { a, b, bias: bias ?? b, y },
    {
      m,
      n: n / v,
      k,
      count,
      aBatch: a.rank === 3 ? m * k : 0,
      aRow: transposeA ? 1 : k,
      aColumn: transposeA ? m : 1,
      bBatch: b.rank === 3 ? (k * n) / v : 0,
      bRow: transposeB ? 1 : n / v,
      bColumn: transposeB ? k : 1,
      scale,
    },
    linearGrid(count),
    { flops: 2 * batch * m * n * k },
  );
  return y;
}

/** Column sums of x [rows, columns], in two passes where there are many rows. Without a gradient. */
export function sumRows(x: Tensor, scale = 1): Tensor {
  const { device } = x;
  const [rows, columns] = x.shape as [number, number];
  const pass = (from: Tensor, count: number, chunk: number, factor: number, shape: number[]) => {
    const y = device.empty(shape);
    const wide = columns % 4 === 0;
    const v = wide ? 4 : 1;
    device.run(
      kernel('matmul-sum', sumSource, { T: wide ? 'vec4<f32>' : 'f32' }),
      { x: from, y },
      { rows: count, columns: columns / v, chunk, count: y.size / v, scale: factor },
      linearGrid(y.size / v),
    );
    return y;
  };
  // About the square root of the rows at a time: enough invocations, and errors grow slowly.
  const chunk = rows > 256 ? 2 ** Math.ceil(Math.log2(Math.sqrt(rows))) : rows;
  if (chunk >= rows) return pass(x, rows, Math.max(1, rows), scale, [columns]);
  const chunks = Math.ceil(rows / chunk);
  return pass(pass(x, rows, chunk, 1, [chunks, columns]), chunks, chunks, scale, [columns]);
}
