/**
 * Matrix products. Everything here is one function, `gemm`, on plain row-major matrices; a transposed operand is
 * read in place.
 */
import { differentiable, tidy } from '../engine/autograd.ts';
import type { Capabilities } from '../engine/capabilities.ts';
import type { Device } from '../engine/device.ts';
import { check } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { checkFloats, sizeOf, type Tensor } from '../engine/tensor.ts';
import { itemText } from '../engine/texels.ts';
import type { Problem } from '../engine/tuning.ts';
import directSource from './matmul-direct.wgsl';
import subgroupSource from './matmul-subgroup.wgsl';
import sumSource from './matmul-sum.wgsl';
import tiledSource from './matmul-tiled.wgsl';
import { type Cotangent, matrixFits, matrixTileOf, peaksOf } from './matrix.ts';
import {
  foursOf,
  foursText,
  laneText,
  neighbours,
  orderAcross,
  putText,
  rowsText,
  type Tile,
  type TileWay,
  tileOf,
  unroll,
  vec,
} from './product-text.ts';

/**
 * A kernel, or a kernel in one size: `subgroup-8x3` has 8 rows and three columns a lane, `texels-8x4` the same with its factors
 * copied into texels, `tiled-64` and `matrix-64` tiles of 64, `tiled-64-plain` another way than `ahead` to compute them.
 */
export type MatmulVariant =
  | 'direct'
  | 'subgroup'
  | 'texels'
  | 'tiled'
  | 'matrix'
  | `subgroup-${SubgroupRows}x${SubgroupColumns}`
  | `texels-${SubgroupRows}x4`
  | `tiled-${Tile}`
  | `tiled-${Tile}-plain`
  | 'tiled-64-tall'
  | `tiled-${32 | 64}-split`
  | `matrix-${Tile}`;

/** Of a subgroup's part of a product. */
export type SubgroupRows = 8 | 16;
/** Columns a lane. */
export type SubgroupColumns = 1 | 2 | 3 | 4;

/** What a tuner may choose from, the safe kernel first. */
export function matmulCandidates(capabilities: Capabilities): MatmulVariant[] {
  const { cpu, texels, subgroups, subgroupSize, matrix } = capabilities;
  const lanes = subgroups && (subgroupSize === 4 || subgroupSize === 8);
  return [
    'direct',
    ...(lanes
      ? (['subgroup-8x2', 'subgroup-8x4', 'subgroup-16x2', 'subgroup-16x3', 'subgroup-16x4'] as const)
      : []),
    ...(lanes && texels ? (['texels-8x4', 'texels-16x4'] as const) : []),
    ...(cpu ? [] : tiles.flatMap((tile) => [`tiled-${tile}`, `tiled-${tile}-plain`] as const)),
    ...(cpu ? [] : (['tiled-64-tall', 'tiled-32-split', 'tiled-64-split'] as const)),
    ...(matrix ? tiles.filter((tile) => matrixFits(tile, capabilities)) : []).map(
      (tile) => `matrix-${tile}` as const,
    ),
  ];
}

/** The measured choice for a problem, where it is one of the candidates. */
export function tunedVariant<V extends string>(
  device: Device,
  problem: Problem,
  candidates: (capabilities: Capabilities) => readonly V[],
): V | undefined {
  const name = device.tuning.choose(problem);
  return name === undefined ? undefined : candidates(device.capabilities).find((c) => c === name);
}

/** How a product is computed; `why` is for people. */
export type MatmulKernel =
  | { readonly variant: 'direct'; readonly why: string }
  /** A subgroup of `lanes` computes rows x lanes·columns; registers only, and factors in `texels` or buffers. */
  | {
      readonly variant: 'subgroup';
      readonly lanes: 4 | 8;
      readonly rows: SubgroupRows;
      readonly columns: SubgroupColumns;
      readonly texels: boolean;
      readonly why: string;
    }
  /** A workgroup computes tile x tile through workgroup memory. */
  | { readonly variant: 'tiled'; readonly tile: Tile; readonly way: TileWay; readonly why: string }
  /** The same by matrices of edge x edge, on factors rounded to f16; `lanes` in a subgroup, which is asked for where `pinned`. */
  | {
      readonly variant: 'matrix';
      readonly tile: Tile;
      readonly edge: 8 | 16;
      readonly lanes: number;
      readonly pinned: boolean;
      readonly why: string;
    };

/** The sizes of a product: batch x [m,k]·[k,n]. */
export interface MatmulShape {
  readonly batch: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Whether texels can hold both factors: they are read in fours of elements, and not too large. */
  readonly texels?: boolean;
}

const tiles = [32, 64, 128] as const;
/** Invocations of a workgroup of the subgroup kernels. */
export const SUBGROUP_WORKGROUP = 32;
/** Multiplications below which a software driver gains less than another pipeline costs. */
const SMALL = 1e5;
/** Rows and columns, and multiplications, below which copies into texels cost more than they gain. */
const TEXELS_LEAST = { side: 8, work: 2e6 };
/** 64x64 tiles below this number leave a GPU idle; then 32x32. */
const FEW_TILES = 64;
/** 128x128 tiles that keep a GPU busy to the end: a workgroup takes most of a core's registers. */
const MANY_TILES = 512;

/** Picks the kernel of a product; `forced` overrides. Also used by conv2d, whose rows are pixels. */
export function chooseMatmulKernel(
  shape: MatmulShape,
  capabilities: Capabilities,
  forced?: MatmulVariant,
): MatmulKernel {
  const { batch, m, n, k } = shape;
  const { cpu, subgroups, subgroupSize: lanes, maxGrid, matrix: edge } = capabilities;
  const lanesFit = subgroups && (lanes === 4 || lanes === 8);
  const [kind, size, way = 'ahead'] = (forced ?? '').split('-') as [string, string?, TileWay?];
  check(
    (kind !== 'subgroup' && kind !== 'texels') || lanesFit,
    () => `matmul: variant ${kind} wants subgroups of exactly 4 or 8, the device has ${lanes}`,
  );
  const fits = (rows: number, columns: number) =>
    batch <= maxGrid && Math.ceil(m / rows) <= maxGrid && Math.ceil(n / columns) <= maxGrid;
  const subgroup = (): MatmulKernel | null => {
    if (!lanesFit) return null;
    const texels =
      shape.texels === true &&
      capabilities.texels &&
      (kind === 'texels' ||
        (kind === '' && Math.min(m, n) >= TEXELS_LEAST.side && batch * m * n * k >= TEXELS_LEAST.work));
    const [rows, columns] = size
      ? (size.split('x').map(Number) as [SubgroupRows, SubgroupColumns])
      : subgroupTile(m, n, lanes, texels ? [4] : undefined);
    if (!fits((rows * SUBGROUP_WORKGROUP) / lanes, lanes * columns)) return null;
    const why = `software driver: registers and broadcasts${texels ? ', factors in texels' : ''}`;
    return { variant: 'subgroup', lanes, rows, columns, texels, why };
  };
  const tiled = (): MatmulKernel | null => {
    // So many rows that small tiles are more than a grid holds are still many for large ones.
    const tiles: Tile[] = size === undefined ? [tileFor(shape), 64, 128] : [Number(size) as Tile];
    const tile = tiles.find((t) => fits(t, t));
    if (tile === undefined) return null;
    return { variant: 'tiled', tile, way, why: `${tilesOf(shape, tile)} tiles of ${tile}x${tile}` };
  };
  const matrix = (): MatmulKernel | null => {
    if (edge === 0) return null;
    const count = (tile: Tile) => tilesOf(shape, tile);
    const tile =
      size === undefined
        ? n > 64 && count(128) >= 2 * FEW_TILES && matrixFits(128, capabilities)
          ? 128
          : n > 32 && count(64) >= FEW_TILES
            ? 64
            : 32
        : (Number(size) as Tile);
    if (!fits(tile, tile)) return null;
    return {
      variant: 'matrix',
      tile,
      edge,
      lanes: lanes || capabilities.pinnedSubgroup,
      pinned: lanes === 0,
      why: `precision f16: ${count(tile)} tiles of ${tile}x${tile}`,
    };
  };
  const direct: MatmulKernel = { variant: 'direct', why: 'small, or nothing else fits' };
  if (kind === 'direct' || batch * m * n * k === 0) return direct;
  if (kind === 'subgroup' || kind === 'texels') return subgroup() ?? direct;
  if (kind === 'tiled') return tiled() ?? direct;
  check(
    kind !== 'matrix' || edge > 0,
    () => 'matmul: variant matrix wants a device opened with precision f16 that has subgroup matrices',
  );
  if (kind === 'matrix') return matrix() ?? direct;
  if (edge > 0 && Math.min(m, n, k) >= 16) return matrix() ?? direct;
  if (cpu) return batch * m * n * k < SMALL ? direct : (subgroup() ?? direct);
  return n < 8 || m < 8 ? direct : (tiled() ?? direct);
}

/** The constants that all subgroup kernels take. @param wide whether what a lane's rows are loaded from is read in vectors */
export const subgroupConstants = (
  { lanes, rows, columns }: Extract<MatmulKernel, { variant: 'subgroup' }>,
  { T, W }: Pick<ReturnType<typeof laneText>, 'T' | 'W'>,
  wide: boolean,
  texels: boolean,
) => ({
  SG: lanes,
  ROWS: rows,
  J: columns,
  WG: SUBGROUP_WORKGROUP,
  T,
  X: vec(wide),
  W,
  TEXELS: texels,
});

/** Tiles of a product. */
export const tilesOf = ({ batch, m, n }: Omit<MatmulShape, 'k'>, tile: Tile) =>
  batch * Math.ceil(m / tile) * Math.ceil(n / tile);

/**
 * The tile of a GPU's product: the largest of which there are enough, unless a smaller one has less past the edges. `time` is that of a
 * product in tiles of 128: all instructions of the loop over its multiply-adds, in the machine code of an RDNA 3.
 */
function tileFor(shape: Omit<MatmulShape, 'k'>): Tile {
  const sizes = [
    { tile: 128, least: MANY_TILES, time: 1 },
    { tile: 64, least: FEW_TILES, time: 1.14 },
    { tile: 32, least: 0, time: 1.25 },
  ] as const;
  const cost = ({ tile, time }: (typeof sizes)[number]) => tilesOf(shape, tile) * tile ** 2 * time;
  return sizes
    .filter(({ tile, least }) => tilesOf(shape, tile) >= least)
    .reduce((best, size) => (cost(size) < cost(best) ? size : best)).tile;
}

/**
 * Rows and columns a lane, by a model of lavapipe's time: loads of rows and columns, where scalars take longer than
 * vectors, and multiplications.
 */
function subgroupTile(
  m: number,
  n: number,
  lanes: number,
  widths: readonly SubgroupColumns[] = [4, 3, 2, 1],
): [SubgroupRows, SubgroupColumns] {
  const tiles = ([16, 8] as const).flatMap((rows) =>
    widths.map((columns) => {
      const loads = rows / lanes + columns * (neighbours(columns, n) ? 1 : 1.3);
      const count = Math.ceil(m / rows) * Math.ceil(n / (lanes * columns));
      return { rows, columns, cost: count * (loads + 0.04 * rows * columns) };
    }),
  );
  const { rows, columns } = tiles.reduce((best, t) => (t.cost < best.cost ? t : best));
  return [rows, columns];
}

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
 * @throws ShapeError when the inner dimensions or the batches differ, or b is a batch and a is none
 */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions = {}): Tensor {
  const { transposeA = false, transposeB = false, scale = 1, variant } = options;
  checkFloats('matmul', { a, b });
  check(
    a.rank === 3 || b.rank !== 3,
    () =>
      `matmul: a [${a.shape}] is no batch, b [${b.shape}] is one; broadcast a to [${b.shape[0]},${a.shape}]`,
  );
  const y = gemm({ a, b, transposeA, transposeB, scale, variant });
  // da = s dy bᵀ, db = s aᵀ dy; for a transposed operand the transpose of that, with the factors exchanged.
  return differentiable('matmul', [a, b], y, (dy, needs) => {
    const peaks = peaksOf(dy);
    const first = { scale, variant, cotangent: { factor: 'a', peaks } } as const;
    const second = { scale, variant, cotangent: { factor: 'b', peaks } } as const;
    const da = () =>
      transposeA
        ? gemm({ a: b, b: dy, transposeA: transposeB, transposeB: true, ...second })
        : gemm({ a: dy, b, transposeB: !transposeB, ...first });
    const db = () => {
      if (a.rank === 3 && b.rank === 2) return sharedGradient(a, dy, options, peaks);
      return transposeB
        ? gemm({ a: dy, b: a, transposeA: true, transposeB: transposeA, ...first })
        : gemm({ a, b: dy, transposeA: !transposeA, ...second });
    };
    return [needs[0] ? da() : null, needs[1] ? db() : null];
  });
}

/** db for a b that the batch shares: the sum over the batch. */
function sharedGradient(
  a: Tensor,
  dy: Tensor,
  { transposeA, transposeB, scale, variant }: MatmulOptions,
  peaks: Cotangent['peaks'],
): Tensor {
  const flat = (x: Tensor) => x.alias([x.size / (x.shape[2] as number), x.shape[2] as number]);
  const first = { scale, variant, cotangent: { factor: 'a', peaks } } as const;
  const second = { scale, variant, cotangent: { factor: 'b', peaks } } as const;
  if (!transposeA) {
    return transposeB
      ? gemm({ a: flat(dy), b: flat(a), transposeA: true, ...first })
      : gemm({ a: flat(a), b: flat(dy), transposeA: true, ...second });
  }
  const each = transposeB
    ? gemm({ a: dy, b: a, transposeA: true, transposeB: true, ...first })
    : gemm({ a, b: dy, ...second });
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
  checkFloats('linear', { x, w, bias });
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
  const rows = sizeOf(x.shape.slice(0, -1));
  const inputs = bias ? [x, w, bias] : [x, w];
  const y = tidy(inputs, () =>
    gemm({ a: x.alias([rows, k]), b: w, bias, variant }).alias([...x.shape.slice(0, -1), n]),
  );
  // dx = dy wᵀ, dw = xᵀ dy, dbias = the column sums of dy.
  return differentiable('linear', inputs, y, (dy, needs) => {
    const flat = dy.alias([rows, n]);
    const peaks = peaksOf(dy);
    const first = { variant, cotangent: { factor: 'a', peaks } } as const;
    const second = { variant, cotangent: { factor: 'b', peaks } } as const;
    return [
      needs[0] ? gemm({ a: flat, b: w, transposeB: true, ...first }).alias(x.shape) : null,
      needs[1] ? gemm({ a: x.alias([rows, k]), b: flat, transposeA: true, ...second }) : null,
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
  readonly cotangent?: Cotangent;
  /** Of the operation that it computes in another way; else 2·batch·m·n·k. */
  readonly flops?: number;
}

/** scale · op(a)·op(b) + bias without a gradient; shapes as in `matmul`, and a may be shared by the batch of b. */
export function gemm({
  a,
  b,
  bias,
  transposeA = false,
  transposeB = false,
  scale = 1,
  variant,
  cotangent,
  flops,
}: Gemm): Tensor {
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

  const shared = a.rank === 2 && b.rank === 3 ? 'a' : a.rank === 3 && b.rank === 2 ? 'b' : '';
  const problem = { op: 'matmul', batch, m, n, k, transposeA, transposeB, shared, bias: bias !== undefined };
  const choice = chooseMatmulKernel(
    { batch, m, n, k, texels: inTexels(device, [a, b], [transposeA ? m : k, transposeB ? k : n]) },
    device.capabilities,
    variant ?? tunedVariant(device, problem, matmulCandidates),
  );
  const parts =
    (choice.variant === 'tiled' || choice.variant === 'matrix') &&
    batch === 1 &&
    transposeA &&
    !transposeB &&
    !bias
      ? splits(m, n, k)
      : 1;
  if (parts > 1) {
    // A long inner dimension and a small product: chunks of k as a batch, then their sum in order.
    const partial = gemm({
      a: a.alias([parts, k / parts, m]),
      b: b.alias([parts, k / parts, n]),
      transposeA,
      scale,
      variant,
      cotangent,
    });
    return sumRows(partial.alias([parts, m * n])).alias(a.rank === 3 || b.rank === 3 ? [1, m, n] : [m, n]);
  }
  const y = device.empty(a.rank === 3 || b.rank === 3 ? [batch, m, n] : [m, n]);
  const tensors = { a, b, bias: bias ?? b, y };
  const BIAS = bias !== undefined;
  const work = { flops: flops ?? 2 * batch * m * n * k };
  const aBatch = a.rank === 3 ? m * k : 0;
  const bBatch = b.rank === 3 ? k * n : 0;
  if (choice.variant === 'subgroup') {
    const { lanes, rows, columns } = choice;
    const whole = k % 4 === 0;
    const lane = laneText(columns, n, BIAS ? 2 : undefined);
    const quad = rowsText(lane, transposeB, whole);
    const order = transposeA ? orderAcross(lanes, rows, m) : whole ? 'along' : 'single';
    const item = order === 'single' ? 1 : 4;
    const texels = choice.texels && item === 4;
    const text =
      itemText('A', { binding: 0, name: 'a', type: vec(item === 4) }, texels) +
      itemText('B', { binding: 1, name: 'b', type: quad.B }, texels) +
      foursText(rows, lanes, order, whole) +
      lane.text +
      quad.text;
    device.runOnTexels(
      kernel('matmul-subgroup', unroll(subgroupSource, rows, lanes, columns, order === 'adjacent') + text, {
        ...subgroupConstants(choice, lane, item === 4, texels),
        B: quad.B,
        TA: transposeA,
        TB: transposeB,
        K4: whole,
        BIAS,
      }),
      tensors,
      {
        m,
        n,
        k,
        fours: Math.ceil(k / 4),
        row: n / lane.item,
        aBatch: aBatch / item,
        aRow: transposeA ? 1 : k / item,
        aColumn: transposeA ? m / item : 1,
        bBatch: bBatch / quad.item,
        scale,
      },
      [Math.ceil(m / ((rows * SUBGROUP_WORKGROUP) / lanes)), Math.ceil(n / (lanes * columns)), batch],
      work,
    );
  } else if (choice.variant === 'tiled' || choice.variant === 'matrix') {
    const wideA = (transposeA ? m : k) % 4 === 0;
    const wideB = (transposeB ? k : n) % 4 === 0;
    const wideY = n % 4 === 0;
    const tile =
      choice.variant === 'matrix'
        ? matrixTileOf(choice, { TA: transposeA, TB: transposeB }, device.capabilities, cotangent?.factor, 5)
        : tileOf(choice, device.capabilities);
    const text = tile.source + foursOf('A', 'a', wideA) + foursOf('B', 'b', wideB) + putText('y', wideY);
    device.run(
      kernel(`matmul-${choice.variant}`, tiledSource + text, {
        ...tile.constants,
        TA: transposeA,
        TB: transposeB,
        BIAS,
        A: vec(wideA),
        B: vec(wideB),
        Y: vec(wideY),
      }),
      choice.variant === 'matrix' && cotangent ? { ...tensors, peaks: cotangent.peaks() } : tensors,
      { m, n, k, aBatch, bBatch, scale },
      [Math.ceil(n / choice.tile), Math.ceil(m / choice.tile), batch],
      work,
    );
  } else {
    const wide = n % 4 === 0 && !transposeB;
    const v = wide ? 4 : 1;
    const count = y.size / v;
    device.run(
      kernel('matmul-direct', directSource, { T: vec(wide), BIAS }),
      tensors,
      {
        m,
        n: n / v,
        k,
        count,
        aBatch,
        aRow: transposeA ? 1 : k,
        aColumn: transposeA ? m : 1,
        bBatch: bBatch / v,
        bRow: transposeB ? 1 : n / v,
        bColumn: transposeB ? k : 1,
        scale,
      },
      linearGrid(count),
      work,
    );
  }
  return y;
}

/** Whether texels can hold matrices with rows of such lengths. */
export const inTexels = (device: Device, matrices: readonly Tensor[], rows: readonly number[]) =>
  rows.every((length) => length % 4 === 0) &&
  matrices.every(({ bytes }) => bytes <= device.capabilities.maxTexels);

/** A `matmul` problem on random numbers: runs it by a variant, or by the static choice. */
export function matmulProblem(
  problem: Problem,
  random: (shape: readonly number[]) => Tensor,
): (variant?: MatmulVariant) => Tensor {
  const { batch, m, n, k, transposeA, transposeB, shared, bias } = problem as unknown as {
    batch: number;
    m: number;
    n: number;
    k: number;
    transposeA: boolean;
    transposeB: boolean;
    shared: string;
    bias: boolean;
  };
  const operand = (rows: number, columns: number, turned: boolean, alone: boolean) => {
    const matrix = turned ? [columns, rows] : [rows, columns];
    return random(batch === 1 || alone ? matrix : [batch, ...matrix]);
  };
  const a = operand(m, k, transposeA, shared === 'a');
  const b = operand(k, n, transposeB, shared === 'b');
  const row = bias ? random([n]) : null;
  return (variant) =>
    gemm({ a, b, transposeA, transposeB, ...(row ? { bias: row } : {}), ...(variant ? { variant } : {}) });
}

/** Chunks of k for a GPU: enough 32x32 tiles to fill it, at least 64 deep each; a divisor of k, so 1 if k has none. */
function splits(m: number, n: number, k: number): number {
  const tiles = Math.ceil(m / 32) * Math.ceil(n / 32);
  for (let s = Math.min(Math.ceil(256 / tiles), Math.floor(k / 64)); s > 1; s--) if (k % s === 0) return s;
  return 1;
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
