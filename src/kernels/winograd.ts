/**
 * 3x3 convolutions by Winograd's F(2x2, 3x3) (Lavin and Gray 2016): 16 multiplications for a tile of 2x2 pixels instead
 * of 36. With d the 4x4 pixels that a tile depends on and g the kernel,
 *     y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A,
 * so that the sum over input channels is sixteen matrix products. The kernel gradient is its adjoint,
 *     dg = Gᵀ [Σ_tiles (A dy Aᵀ) ⊙ (Bᵀ d B)] G.
 */
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Tensor } from '../engine/tensor.ts';
import { gemm } from './matmul.ts';
import { repeat, vec } from './product-text.ts';
import imageSource from './winograd-image.wgsl';
import kernelSource from './winograd-kernel.wgsl';
import planesSource from './winograd-planes.wgsl';

type Matrix = readonly (readonly number[])[];

const transposed = (m: Matrix): Matrix =>
  (m[0] as readonly number[]).map((_, j) => m.map((row) => row[j] as number));

const B_T: Matrix = [
  [1, 0, -1, 0],
  [0, 1, 1, 0],
  [0, -1, 1, 0],
  [0, 1, 0, -1],
];
const G: Matrix = [
  [1, 0, 0],
  [0.5, 0.5, 0.5],
  [0.5, -0.5, 0.5],
  [0, 0, 1],
];
const A_T: Matrix = [
  [1, 1, 1, 0],
  [0, 1, -1, -1],
];

/** Multiplications that reading and writing an element of a transform takes as long as. */
const ELEMENT = 10;

/** A 3x3 convolution with windows a pixel apart, forward or either gradient. */
export interface WinogradShape {
  /** Tiles of 2x2 output pixels. */
  readonly tiles: number;
  readonly pixels: number;
  readonly cin: number;
  readonly cout: number;
}

/** Tiles of a column and of a row, and in all. */
export function tilesOf([batch, oh, ow]: readonly number[]) {
  const down = Math.ceil((oh as number) / 2);
  const across = Math.ceil((ow as number) / 2);
  return { down, across, tiles: (batch as number) * down * across };
}

/** Bytes of the largest tensor that it takes. */
export function winogradBytes({ tiles, cin, cout }: WinogradShape): number {
  return 4 * 16 * Math.max(tiles * cin, tiles * cout, cin * cout);
}

/** Time of the plain convolution over its own, by counting multiplications and elements moved. */
export function winogradGain({ tiles, pixels, cin, cout }: WinogradShape): number {
  const moved = (16 + 16) * tiles * cin + (16 + 4) * tiles * cout + (9 + 16) * cin * cout;
  return (9 * pixels * cin * cout) / (16 * tiles * cin * cout + ELEMENT * moved);
}

/** A kernel's lines for L D Lᵀ, where D is square: elements `$a`, `$b` of D, `$r`, `$c` of the result. */
function sandwich(source: string, l: Matrix): string {
  const rows = l.length;
  const side = (l[0] as readonly number[]).length;
  const sum = (row: readonly number[], term: (k: number) => string) =>
    row
      .flatMap((w, k) =>
        w === 0 ? [] : [`${w < 0 ? '-' : '+'} ${Math.abs(w) === 1 ? '' : `${Math.abs(w)} * `}${term(k)}`],
      )
      .join(' ')
      .replace(/^\+ /, '');
  return repeat(source, [
    { name: 'c', count: rows, also: (c) => ({ right: sum(l[c] as readonly number[], (b) => `e$r${b}`) }) },
    { name: 'r', count: rows, also: (r) => ({ left: sum(l[r] as readonly number[], (a) => `d${a}$b`) }) },
    { name: 'a', count: side },
    { name: 'b', count: side },
  ]);
}

/** [N,H,W,C] -> [R²,tiles,C]: L D Lᵀ of the tiles that cover an image of `shape`. */
function planesOf(
  x: Tensor,
  l: Matrix,
  shape: readonly number[],
  { top, left }: { readonly top: number; readonly left: number },
): Tensor {
  const [, h, wd, c] = x.shape as [number, number, number, number];
  const { down, across, tiles } = tilesOf(shape);
  const wide = c % 4 === 0;
  const channels = wide ? c / 4 : c;
  const y = x.device.empty([l.length ** 2, tiles, c]);
  const count = tiles * channels;
  x.device.run(
    kernel(`winograd-planes-${l[0]?.length}`, sandwich(planesSource, l), { T: vec(wide), R: l.length }),
    { x, y },
    { h, wd, channels, down, across, top, left, count },
    linearGrid(count),
  );
  return y;
}

/** [SIDE²,count] -> [R²,count]. */
function kernelPlanes(x: Tensor, l: Matrix, TURNED: boolean): Tensor {
  const side = (l[0] as readonly number[]).length;
  const each = x.size / side ** 2;
  const wide = each % 4 === 0;
  const count = wide ? each / 4 : each;
  const y = x.device.empty([l.length ** 2, each]);
  const constants = { T: vec(wide), SIDE: side, R: l.length, TURNED };
  x.device.run(
    kernel('winograd-kernel', sandwich(kernelSource, l), constants),
    { x, y },
    { count },
    linearGrid(count),
  );
  return y;
}

/**
 * The convolution of x with w, without a gradient.
 * @param turned w is [3,3,Cout,Cin] and turned by 180 degrees, as an input gradient reads it
 * @param shape [N,OH,OW,Cout]
 * @param flops of the plain convolution
 */
export function winograd(
  x: Tensor,
  w: Tensor,
  bias: Tensor | null,
  geometry: { readonly top: number; readonly left: number },
  shape: readonly number[],
  turned: boolean,
  flops: number,
): Tensor {
  const { device } = x;
  const [, h, wd, cout] = shape as [number, number, number, number];
  const { down, across, tiles } = tilesOf(shape);
  const a = planesOf(x, B_T, shape, geometry);
  const b = kernelPlanes(w, G, turned).alias([16, w.shape[2] as number, w.shape[3] as number]);
  const products = gemm({ a, b, transposeB: turned, flops });
  const wide = cout % 4 === 0;
  const channels = wide ? cout / 4 : cout;
  const count = tiles * channels;
  const y = device.empty(shape);
  device.run(
    kernel('winograd-image', sandwich(imageSource, A_T), { T: vec(wide), SIDE: 4 }),
    { x: products, bias: bias ?? products, y },
    { h, wd, channels, down, across, count, bias: Number(bias !== null) },
    linearGrid(count),
  );
  return y;
}

/** Its gradient for w, [3,3,Cin,Cout], from x and the cotangent dy. */
export function winogradKernelGradient(
  x: Tensor,
  dy: Tensor,
  geometry: { readonly top: number; readonly left: number },
  shape: readonly number[],
  flops: number,
): Tensor {
  const a = planesOf(x, B_T, dy.shape, geometry);
  const b = planesOf(dy, transposed(A_T), dy.shape, { top: 0, left: 0 });
  const products = gemm({ a, b, transposeA: true, flops });
  return kernelPlanes(products, transposed(G), false).alias(shape);
}
