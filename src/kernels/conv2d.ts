/**
 * Convolution of images as an implicit matrix product: rows are output pixels, columns output channels, and the
 * inner dimension runs over taps and input channels. The gradient for the input is the same product on another
 * geometry, the gradient for the kernel is a product over pixels.
 */
import { differentiable } from '../engine/autograd.ts';
import type { Capabilities } from '../engine/capabilities.ts';
import { check } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { checkFloats, sizeOf, type Tensor } from '../engine/tensor.ts';
import { itemText } from '../engine/texels.ts';
import type { Problem } from '../engine/tuning.ts';
import directSource from './conv2d-direct.wgsl';
import flipSource from './conv2d-flip.wgsl';
import subgroupSource from './conv2d-subgroup.wgsl';
import tiledSource from './conv2d-tiled.wgsl';
import weightSource from './conv2d-weight.wgsl';
import weightSubgroupSource from './conv2d-weight-subgroup.wgsl';
import weightTiledSource from './conv2d-weight-tiled.wgsl';
import {
  chooseMatmulKernel,
  inTexels,
  type MatmulKernel,
  type MatmulVariant,
  matmulCandidates,
  SUBGROUP_WORKGROUP,
  subgroupConstants,
  sumRows,
  tilesOf,
  tunedVariant,
} from './matmul.ts';
import { type Cotangent, matrixTileOf, peaksOf } from './matrix.ts';
import {
  channelsText,
  foursOf,
  laneText,
  orderAcross,
  putText,
  rowsText,
  tileOf,
  unroll,
  vec,
} from './product-text.ts';
import { imageTiles, winograd, winogradBytes, winogradGain, winogradKernelGradient } from './winograd.ts';

/** `winograd`: fewer multiplications, of 3x3 windows a pixel apart. */
export type Conv2dVariant = MatmulVariant | 'winograd';

export type Conv2dKernel = MatmulKernel | { readonly variant: 'winograd'; readonly why: string };

/** A convolution as a product: `pixels` output pixels (of all images), `taps`·cin deep, cout wide. */
export interface Conv2dShape {
  readonly pixels: number;
  readonly taps: number;
  readonly cin: number;
  readonly cout: number;
  /** Of the input: 1, or the stride of the convolution whose input gradient this is. */
  readonly dilation?: number;
  /** Tiles of 4x4 output pixels, where the windows are 3x3 and a pixel apart. */
  readonly tiles?: number;
  /** Whether texels can hold x and w. */
  readonly texels?: boolean;
}

/** What Winograd's algorithm must gain by counting to be chosen; on a GPU its two more dispatches take some microseconds. */
const gainWanted = (cpu: boolean) => (cpu ? 1.2 : 1.5);
/** Workgroups that keep a GPU busy to the end; where a convolution has fewer tiles, several share each. */
const WORKGROUPS = 256;

/** Picks the kernel of a convolution, by the rule of matrix products where Winograd's algorithm gains nothing; `forced` overrides. */
export function chooseConv2dKernel(
  shape: Conv2dShape,
  capabilities: Capabilities,
  forced?: Conv2dVariant,
): Conv2dKernel {
  const { pixels, taps, cin, cout, dilation = 1 } = shape;
  const gain = winogradOf(shape, capabilities);
  if (gain > 0 && (forced === 'winograd' || (!forced && gain > gainWanted(capabilities.cpu))))
    return { variant: 'winograd', why: `by counting, ${gain.toFixed(1)} times as fast as without` };
  const batch = dilation ** 2;
  const product = { batch, m: Math.ceil(pixels / batch), n: cout, k: taps * cin, texels: shape.texels };
  const choice = chooseMatmulKernel(product, capabilities, forced === 'winograd' ? undefined : forced);
  const share = !forced && choice.variant === 'tiled' && tilesOf(product, choice.tile) < WORKGROUPS;
  return share ? { ...choice, way: 'split' } : choice;
}

/** What Winograd's algorithm gains; 0 where it cannot be used. Transforms would enlarge the error of rounding to f16. */
function winogradOf({ tiles = 0, ...shape }: Conv2dShape, capabilities: Capabilities): number {
  const own = { ...shape, tiles };
  const { matrix, maxBinding } = capabilities;
  return tiles === 0 || matrix > 0 || winogradBytes(own) > maxBinding ? 0 : winogradGain(own, capabilities);
}

/** What a tuner may choose from for a `conv2d` or `conv2d-weight` problem, the safe kernel first. */
export function conv2dCandidates(problem: Problem, capabilities: Capabilities): Conv2dVariant[] {
  const fits = winogradOf(shapeOf(problem as unknown as Sizes), capabilities) > 0;
  return [...matmulCandidates(capabilities), ...(fits ? (['winograd'] as const) : [])];
}

interface Sizes {
  readonly batch: number;
  readonly cin: number;
  readonly kh: number;
  readonly kw: number;
  readonly cout: number;
  readonly oh: number;
  readonly ow: number;
  readonly stride: number;
  readonly dilation?: number;
}

function shapeOf({ batch, cin, kh, kw, cout, oh, ow, stride, dilation = 1 }: Sizes): Conv2dShape {
  const dense = kh === 3 && kw === 3 && stride === 1 && dilation === 1;
  // Output pixels by phase: positions that are alike modulo the dilation, and so have the same taps.
  const pixels = batch * Math.ceil(oh / dilation) * Math.ceil(ow / dilation) * dilation ** 2;
  return { pixels, taps: kh * kw, cin, cout, dilation, tiles: dense ? imageTiles([batch, oh, ow]).tiles : 0 };
}

export interface Conv2dOptions {
  /** [Cout], added to every pixel. */
  readonly bias?: Tensor;
  /** Distance of the windows, the same in both directions; 1. */
  readonly stride?: number;
  /** Zeros around the image: one number for all sides or [top, bottom, left, right]; 0. */
  readonly padding?: number | readonly [number, number, number, number];
  /** Forces a kernel, for tests and measurements. */
  readonly variant?: Conv2dVariant;
}

/** Where output pixel o and tap k read: input (o·stride + k − before) / dilation, if that divides and lies inside. */
interface Geometry {
  readonly stride: number;
  readonly dilation: number;
  readonly top: number;
  readonly left: number;
}

/**
 * y[n,oy,ox,co] = bias[co] + Σ x[n, oy·stride + ky − top, ox·stride + kx − left, ci] · w[ky,kx,ci,co];
 * `torch.nn.functional.conv2d` in NHWC and HWIO.
 * @param x [N,H,W,Cin]
 * @param w [KH,KW,Cin,Cout]
 * @returns [N,OH,OW,Cout], OH = floor((H + top + bottom − KH) / stride) + 1
 * @throws ShapeError when channels differ or the kernel is larger than the padded image
 */
export function conv2d(x: Tensor, w: Tensor, options: Conv2dOptions = {}): Tensor {
  const { bias, stride = 1, padding = 0, variant } = options;
  checkFloats('conv2d', { x, w, bias });
  check(x.rank === 4, () => `conv2d: x [${x.shape}] is not [N,H,W,C]`);
  check(w.rank === 4, () => `conv2d: w [${w.shape}] is not [KH,KW,Cin,Cout]`);
  const [batch, height, width, cin] = x.shape as [number, number, number, number];
  const [kh, kw, wCin, cout] = w.shape as [number, number, number, number];
  check(cin === wCin, () => `conv2d: x [${x.shape}] has ${cin} channels, w [${w.shape}] wants ${wCin}`);
  check(
    !bias || (bias.rank === 1 && bias.shape[0] === cout),
    () => `conv2d: bias [${bias?.shape}] is not [${cout}]`,
  );
  check(Number.isInteger(stride) && stride >= 1, () => `conv2d: stride ${stride} is not a positive integer`);
  const sides = typeof padding === 'number' ? [padding, padding, padding, padding] : padding;
  check(
    sides.length === 4 && sides.every((p) => Number.isInteger(p) && p >= 0),
    () => `conv2d: padding [${sides}] is not a number or four sides, integers ≥ 0`,
  );
  const [top, bottom, left, right] = sides as [number, number, number, number];
  const oh = Math.floor((height + top + bottom - kh) / stride) + 1;
  const ow = Math.floor((width + left + right - kw) / stride) + 1;
  check(
    oh >= 1 && ow >= 1,
    () => `conv2d: a ${kh}x${kw} kernel does not fit ${height}x${width} padded by [${sides}]`,
  );

  const y = convolve(x, w, bias ?? null, { stride, dilation: 1, top, left }, [batch, oh, ow, cout], variant);
  // dx: dy spread out by the stride, convolved with the kernel flipped and its channels exchanged:
  //     dx[iy] = Σ_k dy[(iy + top − k) / stride] w[k]; with k = KH−1−k' the index is (iy + k' − (KH−1−top)) / stride.
  // dw[ky,kx,ci,co] = Σ_pixels x[…] dy[…], dbias = Σ_pixels dy.
  return differentiable('conv2d', bias ? [x, w, bias] : [x, w], y, (dy, needs) => {
    const peaks = peaksOf(dy);
    const back = { stride: 1, dilation: stride, top: kh - 1 - top, left: kw - 1 - left };
    return [
      needs[0] ? convolve(dy, w, null, back, x.shape, variant, peaks) : null,
      needs[1] ? kernelGradient(x, dy, w.shape, { stride, dilation: 1, top, left }, variant, peaks) : null,
      needs[2] ? sumRows(dy.alias([dy.size / cout, cout])) : null,
    ];
  });
}

/** @param peaks given where x is a cotangent; w is then [KH,KW,Cout,Cin], and turned by 180 degrees */
function convolve(
  x: Tensor,
  w: Tensor,
  bias: Tensor | null,
  geometry: Geometry,
  shape: readonly number[],
  variant: Conv2dVariant | undefined,
  peaks?: Cotangent['peaks'],
): Tensor {
  const turned = peaks !== undefined;
  const { device } = x;
  const [batch, h, wd, cin] = x.shape as [number, number, number, number];
  const [kh, kw] = w.shape as [number, number];
  const [, oh, ow, cout] = shape as [number, number, number, number];
  const { stride, dilation, top, left } = geometry;
  const work = { flops: (2 * batch * oh * ow * kh * kw * cin * cout) / dilation ** 2 };
  const BIAS = bias !== null;
  // Pixels of a phase.
  const pixels = batch * Math.ceil(oh / dilation) * Math.ceil(ow / dilation);
  const problem = { op: 'conv2d', batch, h, wd, cin, kh, kw, cout, oh, ow, ...geometry, bias: BIAS, turned };
  const choice = chooseConv2dKernel(
    { ...shapeOf(problem), texels: inTexels(device, [x, w], [cin, turned ? cin : cout]) },
    device.capabilities,
    variant ?? tunedVariant(device, problem, (capabilities) => conv2dCandidates(problem, capabilities)),
  );
  if (choice.variant === 'winograd')
    return device.scope(() => winograd(x, w, bias, geometry, shape, turned, work.flops));
  const depth = (kh * kw * cin) / dilation ** 2;
  const parts = partsOf(choice, { phases: dilation ** 2, pixels, cout, depth });
  const y = device.empty(parts > 1 ? [parts, ...shape] : shape);
  const kernelOf = choice.variant === 'direct' && turned ? flip(w) : w;
  const tensors = { x, w: kernelOf, bias: bias ?? kernelOf, y };
  const constants = { KH: kh, KW: kw, CIN: cin, COUT: cout, STRIDE: stride, DILATION: dilation, BIAS };
  const params = { h, wd, oh, ow, top, left, pixels };
  if (choice.variant === 'subgroup') {
    const { lanes, rows, columns, texels } = choice;
    const wide = cin % 4 === 0;
    const lane = laneText(columns, cout, BIAS ? 2 : undefined);
    const quad = rowsText(lane, turned, wide);
    const each = [0, 1, 2, 3].map(
      (j) => `select(0.0, itemA(at + min(4u * q + ${j}u, p.cin - 1u)), 4u * q + ${j}u < p.cin)`,
    );
    const text = `${lane.text}${quad.text}
${itemText('A', { binding: 0, name: 'x', type: vec(wide) }, texels)}
${itemText('B', { binding: 1, name: 'w', type: quad.B }, texels)}
fn four(p: Params, at: u32, q: u32) -> vec4<f32> { return ${wide ? 'itemA(at + q)' : `vec4(${each.join(', ')})`}; }`;
    device.runOnTexels(
      kernel('conv2d-subgroup', unroll(subgroupSource, rows, lanes, columns) + text, {
        DILATION: dilation,
        ...subgroupConstants(choice, lane, wide, texels),
        B: quad.B,
        TURNED: turned,
        BIAS,
      }),
      tensors,
      {
        ...params,
        cin,
        cout,
        kh,
        kw,
        stride,
        fours: Math.ceil(cin / 4),
        pixel: cin / (wide ? 4 : 1),
        tap: (cin * cout) / quad.item,
        row: cout / lane.item,
      },
      [
        Math.ceil(pixels / ((rows * SUBGROUP_WORKGROUP) / lanes)),
        Math.ceil(cout / (lanes * columns)),
        dilation ** 2,
      ],
      work,
    );
  } else if (choice.variant === 'tiled' || choice.variant === 'matrix') {
    const wideX = cin % 4 === 0;
    const wideY = cout % 4 === 0;
    const wideW = turned ? wideX : wideY;
    const tile =
      choice.variant === 'matrix'
        ? matrixTileOf(choice, { TA: false, TB: turned }, device.capabilities, turned ? 'a' : undefined, 5)
        : tileOf(choice, device.capabilities);
    const text = tile.source + foursOf('A', 'x', wideX) + foursOf('B', 'w', wideW) + putText('y', wideY);
    device.run(
      kernel(`conv2d-${choice.variant}`, tiledSource + text, {
        ...constants,
        ...tile.constants,
        PARTS: parts,
        TURNED: turned,
        TA: false,
        TB: turned,
        A: vec(wideX),
        B: vec(wideW),
        Y: vec(wideY),
      }),
      choice.variant === 'matrix' && peaks ? { ...tensors, peaks: peaks() } : tensors,
      { ...params, size: sizeOf(shape) },
      [Math.ceil(cout / choice.tile), Math.ceil(pixels / choice.tile), dilation ** 2 * parts],
      work,
    );
  } else {
    const wide = cout % 4 === 0;
    const v = wide ? 4 : 1;
    const count = y.size / v;
    device.run(
      kernel('conv2d-direct', directSource, { T: vec(wide), BIAS }),
      tensors,
      { h, wd, cin, oh, ow, cout: cout / v, kh, kw, ...geometry, count },
      linearGrid(count),
      work,
    );
  }
  if (parts === 1) return y;
  const sum = device.scope(() => sumRows(y.alias([parts, sizeOf(shape)])).alias(shape));
  y.dispose();
  return sum;
}

/** Workgroups that share a tile's sums: enough of them for a GPU, each with 32 products or more of a sum. */
function partsOf(
  choice: MatmulKernel,
  { phases, pixels, cout, depth }: { phases: number; pixels: number; cout: number; depth: number },
): number {
  if (choice.variant !== 'tiled' || choice.way !== 'split') return 1;
  const tiles = tilesOf({ batch: phases, m: pixels, n: cout }, choice.tile);
  return Math.max(1, Math.min(Math.ceil(WORKGROUPS / tiles), Math.floor(depth / 32)));
}

/** [KH,KW,Cin,Cout] -> [KH,KW,Cout,Cin], turned by 180 degrees. */
function flip(w: Tensor): Tensor {
  const [kh, kw, cin, cout] = w.shape as [number, number, number, number];
  const y = w.device.empty([kh, kw, cout, cin]);
  w.device.run(
    kernel('conv2d-flip', flipSource),
    { w, y },
    { taps: kh * kw, cin, cout, count: y.size },
    linearGrid(y.size),
  );
  return y;
}

function kernelGradient(
  x: Tensor,
  dy: Tensor,
  shape: readonly number[],
  { stride, top, left }: Geometry,
  given: Conv2dVariant | undefined,
  peaks: Cotangent['peaks'],
): Tensor {
  const { device } = x;
  const [, h, wd, cin] = x.shape as [number, number, number, number];
  const [batch, oh, ow, cout] = dy.shape as [number, number, number, number];
  const [kh, kw] = shape as [number, number, number, number];
  const pixels = batch * oh * ow;
  const work = { flops: 2 * pixels * kh * kw * cin * cout };
  // Chunks of pixels, at least 64 each and a multiple of 4, whose sums are added in a second pass.
  const chunked = (target: number) => {
    const parts = Math.max(1, Math.min(Math.ceil(target), Math.ceil(pixels / 64)));
    const chunk = 4 * Math.ceil(pixels / (4 * parts));
    return { chunk, parts: Math.ceil(pixels / chunk) };
  };
  const sum = (partial: Tensor) => sumRows(partial).alias(shape);
  const problem = { op: 'conv2d-weight', batch, h, wd, cin, kh, kw, cout, oh, ow, stride, top, left };
  const wanted =
    given ?? tunedVariant(device, problem, (capabilities) => conv2dCandidates(problem, capabilities));
  if (chooseConv2dKernel(shapeOf(problem), device.capabilities, wanted).variant === 'winograd')
    return device.scope(() => winogradKernelGradient(x, dy, { top, left }, shape, work.flops));
  const variant = wanted === 'winograd' ? undefined : wanted;
  const rows = kh * kw * 4 * Math.ceil(cin / 4);
  const { cpu, matrix } = device.capabilities;
  // Chunks of pixels fill the device, so that the size of the tiles follows that of the kernel alone.
  const size = cout > 32 && rows > 32 ? 64 : 32;
  const usual =
    matrix > 0 && Math.min(rows, cout, pixels) >= 16
      ? (`matrix-${size}` as const)
      : !cpu && cout >= 8
        ? (`tiled-${size}` as const)
        : undefined;
  const named = variant === 'tiled' || variant === 'matrix' ? (`${variant}-${size}` as const) : variant;
  const tiled = chooseMatmulKernel(
    { batch: 1, m: rows, n: cout, k: pixels },
    device.capabilities,
    named ?? usual,
  );
  if (tiled.variant === 'tiled' || tiled.variant === 'matrix') {
    const { tile } = tiled;
    const tiles = Math.ceil(rows / tile) * Math.ceil(cout / tile);
    const { chunk, parts } = chunked(WORKGROUPS / tiles);
    const partial = device.empty([parts, sizeOf(shape)]);
    const wideX = cin % 4 === 0;
    const wide = cout % 4 === 0;
    const part =
      tiled.variant === 'matrix'
        ? matrixTileOf(tiled, { TA: true, TB: false }, device.capabilities, 'b', 4)
        : tileOf(tiled, device.capabilities);
    device.run(
      kernel(
        `conv2d-weight-${tiled.variant}`,
        weightTiledSource +
          part.source +
          foursOf('A', 'x', wideX) +
          foursOf('B', 'dy', wide) +
          putText('partial', wide),
        {
          KH: kh,
          KW: kw,
          CIN: cin,
          COUT: cout,
          STRIDE: stride,
          OH: oh,
          OW: ow,
          TA: true,
          TB: false,
          ...part.constants,
          A: vec(wideX),
          B: vec(wide),
          Y: vec(wide),
        },
      ),
      tiled.variant === 'matrix' ? { x, dy, partial, peaks: peaks() } : { x, dy, partial },
      { h, wd, top, left, pixels, chunk },
      [Math.ceil(cout / tile), Math.ceil(rows / tile), parts],
      work,
    );
    return sum(partial);
  }
  const choice = chooseMatmulKernel(
    { batch: kh * kw, m: cin, n: cout, k: pixels, texels: inTexels(device, [x, dy], [cin, cout]) },
    device.capabilities,
    variant,
  );
  if (choice.variant === 'subgroup') {
    const { lanes, rows, columns } = choice;
    const lane = laneText(columns, cout);
    const order = orderAcross(lanes, rows, cin);
    const item = order === 'single' ? 1 : 4;
    const texels = choice.texels && item === 4;
    const text =
      itemText('A', { binding: 0, name: 'x', type: vec(item === 4) }, texels) +
      itemText('B', { binding: 1, name: 'dy', type: lane.W }, texels) +
      channelsText(rows, lanes, order) +
      lane.text +
      rowsText(lane, false, pixels % 4 === 0).text;
    const blocks = kh * kw * Math.ceil(cin / rows);
    const perGroup = SUBGROUP_WORKGROUP / lanes;
    const grid = [Math.ceil(blocks / perGroup), Math.ceil(cout / (lanes * columns))] as const;
    const { chunk, parts } = chunked(64 / (grid[0] * grid[1]));
    const partial = device.empty([parts, kh * kw * cin * cout]);
    device.runOnTexels(
      kernel(
        'conv2d-weight-subgroup',
        unroll(weightSubgroupSource, rows, lanes, columns, order === 'adjacent') + text,
        {
          ...subgroupConstants(choice, lane, item === 4, texels),
          P4: pixels % 4 === 0,
          ALONG: ow % 4 === 0,
        },
      ),
      { x, dy, y: partial },
      {
        h,
        wd,
        cin,
        oh,
        ow,
        cout,
        kw,
        stride,
        top,
        left,
        pixels,
        chunk: chunk / 4,
        blocks,
        pixel: cin / item,
        row: cout / lane.item,
      },
      [...grid, parts],
      work,
    );
    return sum(partial);
  }
  const v = cout % 4 === 0 ? 4 : 1;
  const down = cin % 4 === 0 ? 4 : 1;
  const blocks = (kh * kw * cin * cout) / (v * down);
  const { chunk, parts } = chunked(16384 / blocks);
  const partial = device.empty([parts, kh * kw * cin * cout]);
  device.run(
    kernel('conv2d-weight', weightSource, { T: vec(v === 4), ROWS: down }),
    { x, dy, partial },
    { h, wd, cin, oh, ow, cout: cout / v, kh, kw, stride, top, left, pixels, chunk, count: parts * blocks },
    linearGrid(parts * blocks),
    work,
  );
  return sum(partial);
}

/** A `conv2d` or `conv2d-weight` problem on random numbers: runs it by a variant, or by the static choice. */
export function conv2dProblem(
  problem: Problem,
  random: (shape: readonly number[]) => Tensor,
): (variant?: Conv2dVariant) => Tensor {
  const { batch, h, wd, cin, kh, kw, cout, oh, ow } = problem as Record<string, number> as {
    [name in 'batch' | 'h' | 'wd' | 'cin' | 'kh' | 'kw' | 'cout' | 'oh' | 'ow']: number;
  };
  const { stride, dilation = 1, top, left } = problem as unknown as Geometry;
  const geometry = { stride, dilation, top, left };
  const x = random([batch, h, wd, cin]);
  if (problem.op === 'conv2d-weight') {
    const dy = random([batch, oh, ow, cout]);
    return (variant) => kernelGradient(x, dy, [kh, kw, cin, cout], geometry, variant, peaksOf(dy));
  }
  const turned = problem.turned === true;
  const w = random(turned ? [kh, kw, cout, cin] : [kh, kw, cin, cout]);
  const bias = problem.bias === true ? random([cout]) : null;
  return (variant) =>
    convolve(x, w, bias, geometry, [batch, oh, ow, cout], variant, turned ? peaksOf(x) : undefined);
}
