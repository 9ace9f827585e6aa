/**
 * Products on a GPU's units for matrices, opt-in by precision f16: the text that takes the place of matmul-tile.wgsl, and
 * the scale of cotangents.
 */
import type { Capabilities } from '../engine/capabilities.ts';
import { kernel } from '../engine/kernel.ts';
import type { Tensor } from '../engine/tensor.ts';
import matrixSource from './matmul-tile-matrix.wgsl';
import peaksSource from './peaks.wgsl';
import { type Tile, tileText, vec } from './product-text.ts';

/** Depth of a tile. */
const DEPTH = 32;
/** Parts whose maxima `peaksOf` leaves. */
const PARTS = 256;

/** Subgroups of a tile side by side, of two below one another: what one holds has to fit its registers. */
const across = (tile: Tile) => (tile === 128 ? 4 : 2);

/** Bytes of workgroup memory that a tile takes, with the next pair of tiles or without. */
function matrixStorage(tile: Tile, edge: number, ahead = false): number {
  return (ahead ? 8 : 4) * tile * (DEPTH + 8) + 8 * across(tile) * edge ** 2;
}

/** Whether a workgroup of a tile is one that the device can run. */
export function matrixFits(
  tile: Tile,
  {
    matrix,
    subgroupSize,
    pinnedSubgroup,
    maxWorkgroupStorage,
    maxInvocations,
  }: Pick<
    Capabilities,
    'matrix' | 'subgroupSize' | 'pinnedSubgroup' | 'maxWorkgroupStorage' | 'maxInvocations'
  >,
): boolean {
  const invocations = 2 * across(tile) * (subgroupSize || pinnedSubgroup);
  return matrixStorage(tile, matrix) <= maxWorkgroupStorage && invocations <= maxInvocations;
}

/** A factor that is a gradient: which one it is, and its largest elements. */
export interface Cotangent {
  readonly factor: 'a' | 'b';
  readonly peaks: () => Tensor;
}

/**
 * matmul-tile-matrix.wgsl and its constants.
 * @param turned whether A is stored along m, and B along k
 * @param cotangent the factor that is one, if any; its peaks are bound at `binding`
 */
export function matrixTileOf(
  {
    tile,
    edge,
    lanes,
    pinned,
  }: { readonly tile: Tile; readonly edge: 8 | 16; readonly lanes: number; readonly pinned: boolean },
  { TA, TB }: { readonly TA: boolean; readonly TB: boolean },
  { cpu, maxWorkgroupStorage }: Pick<Capabilities, 'cpu' | 'maxWorkgroupStorage'>,
  cotangent: 'a' | 'b' | undefined,
  binding: number,
) {
  const SIDE = across(tile);
  const [DOWN, ACROSS] = [tile / (2 * edge), tile / (SIDE * edge)];
  const loads = (tile * DEPTH) / (8 * SIDE * lanes);
  const UNROLL = cpu ? 1 : DEPTH / edge;
  const loops = [
    { name: 'k', count: UNROLL },
    { name: 'r', count: DOWN },
    { name: 'q', count: ACROSS },
    { name: 'i', count: loads },
    { name: 'j', count: loads },
  ];
  const scaled = `
@group(0) @binding(${binding}) var<storage, read> peaks: array<f32>;
fn scaleOf(lane: u32) -> vec2<f32> {
  var peak = 0.0;
  for (var i = lane; i < ${PARTS}u; i += LANES) { peak = max(peak, peaks[i]); }
  peak = subgroupMax(peak);
  let s = select(1.0, exp2(clamp(14.0 - floor(log2(peak)), -60.0, 60.0)), peak > 0.0);
  return select(vec2(s, 1.0), vec2(1.0, s), SCALED == 2u);
}`;
  const plain = '\nfn scaleOf(lane: u32) -> vec2<f32> { return vec2(1.0); }';
  const SCALED = cotangent === undefined ? 0 : cotangent === 'a' ? 1 : 2;
  const order = (turned: boolean) => (turned ? 'col_major' : 'row_major');
  const text = matrixSource.replaceAll('$orderA', order(TA)).replaceAll('$orderB', order(TB));
  // The compiler may take another size of the subgroups that the driver has, unless it is asked for.
  const entry = '@workgroup_size(THREADS)';
  const source = pinned
    ? `enable subgroup_size_control;\n${text.replace(entry, `${entry} @subgroup_size(LANES)`)}`
    : text;
  return {
    source: tileText(source, loops) + (cotangent ? scaled : plain),
    constants: {
      TILE: tile,
      SIDE,
      DOWN,
      ACROSS,
      KT: DEPTH,
      EDGE: edge,
      LANES: lanes,
      PINNED: pinned,
      UNROLL,
      AHEAD: matrixStorage(tile, edge, true) <= maxWorkgroupStorage,
      SCALED,
    },
  };
}

/** max |x| of parts of x, measured once, when it is first asked for. */
export function peaksOf(x: Tensor): () => Tensor {
  let found: Tensor | null = null;
  return () => {
    if (found) return found;
    const wide = x.size % 4 === 0;
    const text = `\nfn widest(v: T) -> f32 { return ${wide ? 'max(max(v.x, v.y), max(v.z, v.w))' : 'v'}; }`;
    found = x.device.empty([PARTS]);
    x.device.run(
      kernel('peaks', peaksSource + text, { PARTS, T: vec(wide) }),
      { x, y: found },
      { count: wide ? x.size / 4 : x.size },
      [PARTS, 1, 1],
    );
    return found;
  };
}
