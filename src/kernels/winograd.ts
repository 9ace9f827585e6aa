/**
 * 3x3 convolutions by Winograd's F(4x4, 3x3) (Lavin and Gray 2016): 36 multiplications for a tile of 4x4 pixels instead
 * of 144. With d the 6x6 pixels that a tile depends on and g the kernel,
 *     y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A,
 * so that the sum over input channels is 36 matrix products. The kernel gradient is its adjoint,
 *     dg = Gᵀ [Σ_tiles (A dy Aᵀ) ⊙ (Bᵀ d B)] G.
 */
import type { Capabilities } from '../engine/capabilities.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Tensor } from '../engine/tensor.ts';
import { itemText } from '../engine/texels.ts';
import { gemm, inTexels } from './matmul.ts';
import { repeat, vec } from './product-text.ts';
import imageSource from './winograd-image.wgsl';
import kernelSource from './winograd-kernel.wgsl';
import planesSource from './winograd-planes.wgsl';

type Matrix = readonly (readonly number[])[];

const transposed = (m: Matrix): Matrix =>
  (m[0] as readonly number[]).map((_, j) => m.map((row) => row[j] as number));

/**
 * Products of polynomials are taken at these points and at infinity. With the usual ±1, ±2 rounding errors are twice as large
 * (256 channels: 3.2e-6 of the norm for 1.6e-6; a sum in order has 0.9e-6).
 */
const POINTS = [0, 0.75, -0.75, 1.5, -1.5];

/** Coefficients of Π (x − p), the constant first. */
const polynomial = (roots: readonly number[]) =>
  roots.reduce((c, p) => c.concat(0).map((_, i) => (c[i - 1] ?? 0) - p * (c[i] ?? 0)), [1]);
const powers = (p: number, count: number) => Array.from({ length: count }, (_, i) => p ** i);
const others = (p: number) => POINTS.filter((q) => q !== p);

// The last row is that of infinity.
const A: Matrix = [...POINTS.map((p) => powers(p, 4)), [0, 0, 0, 1]];
const G: Matrix = [
  ...POINTS.map((p) => powers(p, 3).map((v) => v / others(p).reduce((n, q) => n * (p - q), 1))),
  [0, 0, 1],
];
const B_T: Matrix = [...POINTS.map((p) => [...polynomial(others(p)), 0]), polynomial(POINTS)];
const A_T = transposed(A);
/** Pixels of a tile's edge. */
const TILE = 4;
/** Products of a tile. */
const PLANES = 36;

/** A kernel's lines for L D Lᵀ, where D is square: elements `$a`, `$b` of D, `$r`, `$c` of the result. */
function sandwich(source: string, l: Matrix) {
  const R = l.length;
  const SIDE = (l[0] as readonly number[]).length;
  const sum = (row: readonly number[], term: (k: number) => string) =>
    row
      .flatMap((w, k) =>
        w === 0 ? [] : [`${w < 0 ? '-' : '+'} ${Math.abs(w) === 1 ? '' : `${Math.abs(w)} * `}${term(k)}`],
      )
      .join(' ')
      .replace(/^\+ /, '');
  const text = repeat(source, [
    { name: 'c', count: R, also: (c) => ({ right: sum(l[c] as readonly number[], (b) => `e$r${b}`) }) },
    { name: 'r', count: R, also: (r) => ({ left: sum(l[r] as readonly number[], (a) => `d${a}$b`) }) },
    { name: 'a', count: SIDE },
    { name: 'b', count: SIDE },
  ]);
  return { text, constants: { SIDE, R } };
}

const input = sandwich(planesSource, B_T);
const cotangent = sandwich(planesSource, A);
const output = sandwich(imageSource, A_T);
const weights = sandwich(kernelSource, G);
const gradient = sandwich(kernelSource, transposed(G));

type Sandwich = typeof input;

/** The kernels' texts, of which a table of tuned choices is valid. */
export const winogradTexts = [input, cotangent, output, weights, gradient].map(({ text }) => text);

type Drivers = Pick<Capabilities, 'cpu' | 'texels'>;

/**
 * Multiplications that reading or writing an element of a transform takes as long as: measured on software drivers, and what
 * memory and half of the multiply-adds of GPUs have to do with one another, 20 to 50.
 */
const elementCost = ({ cpu, texels }: Drivers) => (cpu && !texels ? 20 : 40);

/** A 3x3 convolution with windows a pixel apart, forward or either gradient. */
export interface WinogradShape {
  /** Tiles of 4x4 output pixels. */
  readonly tiles: number;
  readonly pixels: number;
  readonly cin: number;
  readonly cout: number;
}

/** Tiles of a column and of a row, and in all. */
export function imageTiles([batch, oh, ow]: readonly number[]) {
  const down = Math.ceil((oh as number) / TILE);
  const across = Math.ceil((ow as number) / TILE);
  return { down, across, tiles: (batch as number) * down * across };
}

/** Bytes of the largest tensor that it takes. */
export function winogradBytes({ tiles, cin, cout }: WinogradShape): number {
  return 4 * PLANES * Math.max(tiles * cin, tiles * cout, cin * cout);
}

/** Time of the plain convolution over its own, by counting multiplications and elements moved. */
export function winogradGain({ tiles, pixels, cin, cout }: WinogradShape, drivers: Drivers): number {
  const moved = 2 * PLANES * tiles * cin + (PLANES + TILE ** 2) * tiles * cout + (9 + PLANES) * cin * cout;
  return (9 * pixels * cin * cout) / (PLANES * tiles * cin * cout + elementCost(drivers) * moved);
}

/** What a transform reads, element by element from a buffer, or in fours from texels: its kernel's end, and elements of an item. */
function reading(x: Tensor) {
  const texels = x.device.capabilities.texels && inTexels(x.device, [x], [x.shape.at(-1) as number]);
  const type = vec(texels);
  return {
    end: itemText('', { binding: 0, name: 'x', type }, texels),
    constants: { T: type, TEXELS: texels },
    each: texels ? 4 : 1,
  };
}

/** [N,H,W,C] -> [R²,tiles,C]: L D Lᵀ of the tiles that cover an image of `shape`. */
function planesOf(
  x: Tensor,
  { text, constants }: Sandwich,
  shape: readonly number[],
  { top, left }: { readonly top: number; readonly left: number },
): Tensor {
  const [, h, wd, channels] = x.shape as [number, number, number, number];
  const { down, across, tiles } = imageTiles(shape);
  const y = x.device.empty([constants.R ** 2, tiles, channels]);
  const from = reading(x);
  const count = y.size / constants.R ** 2 / from.each;
  x.device.runOnTexels(
    kernel('winograd-planes', text + from.end, { ...from.constants, ...constants, TILE }),
    { x, y },
    { h, wd, channels: channels / from.each, down, across, top, left, count },
    linearGrid(count),
  );
  return y;
}

/** [SIDE²,count] -> [R²,count]. */
function kernelPlanes(x: Tensor, { text, constants }: Sandwich, turned: boolean): Tensor {
  const count = x.size / constants.SIDE ** 2;
  const y = x.device.empty([constants.R ** 2, count]);
  x.device.run(
    kernel('winograd-kernel', text, constants),
    { x, y },
    { count, turned: Number(turned) },
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
  const { down, across, tiles } = imageTiles(shape);
  const a = planesOf(x, input, shape, geometry);
  const b = kernelPlanes(w, weights, turned).alias([PLANES, w.shape[2] as number, w.shape[3] as number]);
  const products = gemm({ a, b, transposeB: turned, flops });
  const y = device.empty(shape);
  const from = reading(products);
  const count = (tiles * cout) / from.each;
  device.runOnTexels(
    kernel('winograd-image', output.text + from.end, { ...from.constants, ...output.constants, TILE }),
    { x: products, bias: bias ?? products, y },
    { h, wd, channels: cout / from.each, down, across, count, bias: Number(bias !== null) },
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
  const a = planesOf(x, input, dy.shape, geometry);
  const b = planesOf(dy, cotangent, dy.shape, { top: 0, left: 0 });
  const products = gemm({ a, b, transposeA: true, flops });
  return kernelPlanes(products, gradient, false).alias(shape);
}
