/**
 * WGSL that products of matrices and convolutions share: parts that are appended to their kernels, and lines that are
 * repeated.
 */
import type { Capabilities } from '../engine/capabilities.ts';
import tileSource from './matmul-tile.wgsl';
import loadsSource from './matmul-tile-loads.wgsl';

/** Rows and columns of a workgroup's part of a product. */
export type Tile = 32 | 64 | 128;

/** Whether a lane's columns are neighbours, read as one vector, or SG apart. */
export function neighbours(columns: number, count: number): boolean {
  return (columns === 2 || columns === 4) && count % columns === 0;
}

/**
 * WGSL of a lane's columns, appended to the subgroup kernels. T holds them, W is the type that arrays of rows are read and
 * stored in. `owned(lane)` is the first of the lane's columns; `placesOf(c, count)` where they lie in a row, in items, the
 * last column in place of those past it; `biases(places)` their biases; `store(at, c, count, places, value)` writes to the row
 * that begins at the item `at`, and leaves out columns past the last.
 * @param count columns of the matrix
 * @param bias whether there is a bias to read
 */
export function laneText(columns: number, count: number, bias = true) {
  const T = columns === 1 ? 'f32' : `vec${columns}<f32>`;
  const together = neighbours(columns, count);
  const single = together || columns === 1;
  const all = (f: (j: number) => string) => Array.from({ length: columns }, (_, j) => f(j));
  const column = (j: number) => (j === 0 ? 'c' : `c + ${j}u * SG`);
  const places = together
    ? `min(c, count - ${columns}u) / ${columns}u`
    : all((j) => `min(${column(j)}, count - 1u)`).join(', ');
  /** Those of the row that begins at the item `row`. */
  const read = (array: string, row: string) =>
    together
      ? `${array}[${row}p]`
      : `T(${all((j) => `${array}[${row}${single ? 'p' : `p[${j}]`}]`).join(', ')})`;
  const stores = together
    ? ['if (c < count) { y[at + p] = value; }']
    : all((j) => `if (${column(j)} < count) { y[at + ${column(j)}] = value${columns > 1 ? `[${j}]` : ''}; }`);
  return {
    T,
    W: together ? T : 'f32',
    columns,
    /** Columns an item. */
    item: together ? columns : 1,
    /** Column j at the places p. */
    column: (j: number) => (together ? `(${columns}u * p + ${j}u)` : single ? 'p' : `p[${j}]`),
    read,
    text: `
alias P = ${single ? 'u32' : `vec${columns}<u32>`};
fn owned(lane: u32) -> u32 { return lane${together ? ` * ${columns}u` : ''}; }
fn placesOf(c: u32, count: u32) -> P { return P(${places}); }
${bias ? `fn biases(p: P) -> T { return ${read('bias', '')}; }` : ''}
fn store(at: u32, c: u32, count: u32, p: P, value: T) {
  ${stores.join('\n  ')}
}`,
  };
}

/**
 * Repeats lines of a kernel for each value of the loops that they name: `$r` a row, `$v` a register, and so on. `also`
 * gives what else a value stands for. Neighbouring lines that name the same are repeated together, outer loops first.
 */
export function repeat(source: string, loops: readonly Loop[]): string {
  return loops.reduce(
    (text, { name, count, also }) =>
      text.replace(new RegExp(`(?:^.*\\$${name}.*\n)+`, 'gm'), (lines) =>
        Array.from({ length: count }, (_, i) =>
          Object.entries({ [name]: i, ...also?.(i) }).reduce(
            (t, [key, value]) => t.replaceAll(`$${key}`, String(value)),
            lines,
          ),
        ).join(''),
      ),
    source,
  );
}

interface Loop {
  readonly name: string;
  readonly count: number;
  readonly also?: (i: number) => Readonly<Record<string, number | string>>;
}

/**
 * A subgroup kernel for so many rows and columns a lane. Sum `s$r_$j` is of column `$j`, `$sums` all of them; row `$r` comes
 * of register `$v` by `spread$l`, and is the subgroup's row `rowOf($r, lane)`. With eight lanes `spread$l`
 * gives all what lane `$l` holds. With four each takes what the lane `$l` away holds, so that in a lane the rows are
 * permuted: SwiftShader exchanges lanes by one instruction, and takes some twenty for a broadcast.
 * @param adjacent with four lanes and 16 rows: register `$v` of lane l holds row 4l + `$v`, not 4·`$v` + l
 */
export function unroll(
  source: string,
  rows: number,
  lanes: 4 | 8,
  columns: number,
  adjacent = false,
): string {
  const sums = (r: number) => `T(${Array.from({ length: columns }, (_, j) => `s${r}_${j}`).join(', ')})`;
  const repeated = repeat(source, [
    { name: 'r', count: rows, also: (r) => ({ l: r % lanes, v: Math.floor(r / lanes), sums: sums(r) }) },
    { name: 'v', count: rows / lanes },
    { name: 'j', count: columns },
  ]);
  const swaps = ['x', 'quadSwapX(x)', 'quadSwapY(x)', 'quadSwapDiagonal(x)'];
  const spread = (l: number) => (lanes === 4 ? swaps[l] : `subgroupBroadcast(x, ${l}u)`);
  const row = adjacent ? '((r ^ lane) & 3u) * 4u + r / 4u' : lanes === 4 ? 'r ^ lane' : 'r';
  return `${repeated}
${Array.from({ length: lanes }, (_, l) => `fn spread${l}(x: vec4<f32>) -> vec4<f32> { return ${spread(l)}; }`).join('\n')}
fn rowOf(r: u32, lane: u32) -> u32 { return ${row}; }
`;
}

/**
 * How an invocation computes its part of a tile. `ahead`: 4x4, or 8x8 of a tile of 128, and loads the next tiles meanwhile, where
 * workgroup memory holds two. `plain`: the same with one. `tall`: 8x4 of a tile of 64, so that a load from workgroup memory serves
 * more products. `split`: where a convolution has few tiles, several workgroups share each.
 */
export type TileWay = 'ahead' | 'plain' | 'tall' | 'split';

/** matmul-tile.wgsl and its constants. Software drivers, on which it is tested, would take minutes to compile it unrolled. */
export function tileOf(
  { tile, way }: { readonly tile: Tile; readonly way: TileWay },
  { cpu, maxWorkgroupStorage }: Pick<Capabilities, 'cpu' | 'maxWorkgroupStorage'>,
) {
  const [DOWN, QUADS, KT] = tile === 128 ? [8, 2, 8] : [way === 'tall' ? 8 : 4, 1, 16];
  const UNROLL = cpu ? 1 : KT / 4;
  const threads = (tile / DOWN) * (tile / 4 / QUADS);
  const loads = (tile * KT) / 4 / threads;
  const loops = [
    { name: 'k', count: UNROLL },
    { name: 'r', count: DOWN },
    { name: 'q', count: QUADS },
    { name: 'i', count: loads },
    { name: 'j', count: loads },
  ];
  const bytes = 16 * (tile * (KT / 4 + 1) + KT * (tile / 4 + 1));
  return {
    source: repeat(tileSource, loops) + loadsSource,
    constants: {
      TILE: tile,
      DOWN,
      QUADS,
      KT,
      UNROLL,
      AHEAD: way !== 'plain' && 2 * bytes <= maxWorkgroupStorage,
    },
  };
}

/**
 * WGSL of a lane's columns of four rows of a matrix of k rows in `array`, appended to the subgroup kernels:
 * `quad(first, q, starts, row, k)` has them in w0, w1, ..., for the rows 4q, 4q + 1, ..., the last one in place of those past
 * it; first is the matrix's first item, row the items of a row, and `startsOf(places, k)` what is the same for all q.
 * Where k is a multiple of 4 (`wide`) there is no row past the last, and a turned matrix, which is stored by columns, is read
 * in fours along them.
 */
export function rowsText(lane: ReturnType<typeof laneText>, array: string, turned: boolean, wide: boolean) {
  const js = Array.from({ length: lane.columns }, (_, j) => j);
  const qs = [0, 1, 2, 3];
  const of = (vector: string, j: number) => (lane.columns > 1 ? `${vector}[${j}]` : vector);
  const row = (q: number) => (wide ? `(4u * q + ${q}u)` : `min(4u * q + ${q}u, k - 1u)`);
  const body = turned
    ? js.map((j) => {
        const at = `first + ${of('s', j)}`;
        const rows = qs.map((q) => `${array}[${at} + ${row(q)}]`);
        return `let w${j} = ${wide ? `${array}[${at} + q]` : `vec4(${rows.join(', ')})`};`;
      })
    : [
        ...qs.map((q) => `let r${q} = ${lane.read(array, `first + ${row(q)} * row + `)};`),
        ...js.map((j) => `let w${j} = vec4(${qs.map((q) => of(`r${q}`, j)).join(', ')});`),
      ];
  const starts = js.map((j) => `${lane.column(j)} * ${wide ? '(k / 4u)' : 'k'}`);
  const S = lane.columns > 1 ? `vec${lane.columns}<u32>` : 'u32';
  return {
    B: turned ? vec(wide) : lane.W,
    /** Elements an item. */
    item: turned ? (wide ? 4 : 1) : lane.item,
    text: `
struct Quad { ${js.map((j) => `w${j}: vec4<f32>`).join(', ')} }
alias S = ${turned ? S : 'P'};
fn startsOf(p: P, k: u32) -> S { return ${turned ? `S(${starts.join(', ')})` : 'p'}; }
fn quad(first: u32, q: u32, ${turned ? 's: S' : 'p: P'}, row: u32, k: u32) -> Quad {
  ${body.join('\n  ')}
  return Quad(${js.map((j) => `w${j}`).join(', ')});
}`,
  };
}

/**
 * WGSL of the rows of the matrix `a` that a lane loads in a product: `rowsOf(p, first, m0, lane)` where they lie, the last in
 * place of those past it; `fours(p, own, q)` in v0, v1, ... their elements 4q to 4q + 3, zeros past the last.
 * @param along whether a row is read in fours; else, where they are `adjacent`, four rows are, as one vector
 * @param whole whether a row's length is a multiple of 4
 */
export function foursText(
  registers: number,
  { along, adjacent, whole }: { along: boolean; adjacent: boolean; whole: boolean },
): string {
  const vs = Array.from({ length: registers }, (_, v) => v);
  const qs = [0, 1, 2, 3];
  const item = (at: string, q: number) =>
    whole
      ? `a[${at} + (4u * q + ${q}u) * p.aColumn]`
      : `select(X(), a[${at} + min(4u * q + ${q}u, p.k - 1u) * p.aColumn], 4u * q + ${q}u < p.k)`;
  const places = adjacent
    ? 'first + min(m0 / 4u + lane, p.m / 4u - 1u)'
    : `Rows(${vs.map((v) => `first + min(m0 + ${v}u * SG + lane, p.m - 1u) * p.aRow`).join(', ')})`;
  const loads = adjacent ? qs.map((q) => `let p${q} = ${item('own', q)};`) : [];
  const four = (v: number) => {
    if (along) return `a[own[${v}] + q]`;
    return `vec4(${qs.map((q) => (adjacent ? `p${q}[${v}]` : item(`own[${v}]`, q))).join(', ')})`;
  };
  return `
alias Rows = ${adjacent ? 'u32' : `array<u32, ${registers}>`};
struct Fours { ${vs.map((v) => `v${v}: vec4<f32>`).join(', ')} }
fn rowsOf(p: Params, first: u32, m0: u32, lane: u32) -> Rows { return ${places}; }
fn fours(p: Params, own: Rows, q: u32) -> Fours {
  ${[...loads, `return Fours(${vs.map(four).join(', ')});`].join('\n  ')}
}`;
}

/**
 * WGSL of the rows that a lane loads in the kernel gradient, channels of four pixels of x: `channelsOf` and `channels`. They
 * are SG apart, or `adjacent`, read as one vector.
 */
export function channelsText(registers: number, adjacent: boolean): string {
  const vs = Array.from({ length: registers }, (_, v) => v);
  const of = (v: number) => (registers > 1 ? `c[${v}]` : 'c');
  const fields = ['x', 'y', 'z', 'w'];
  const C = adjacent || registers === 1 ? 'u32' : `array<u32, ${registers}>`;
  const places = adjacent
    ? 'min(ci / 4u + lane, cin / 4u - 1u)'
    : vs.map((v) => `min(ci + ${v}u * SG + lane, cin - 1u)`).join(', ');
  const loads = adjacent ? fields.map((f) => `let p${f} = x[at.${f} + c];`) : [];
  const four = (v: number) =>
    adjacent
      ? `vec4(${fields.map((f) => `p${f}[${v}]`).join(', ')})`
      : `vec4(${fields.map((f) => `x[at.${f} + ${of(v)}]`).join(', ')})`;
  return `
alias C = ${C};
struct Channels { ${vs.map((v) => `v${v}: vec4<f32>`).join(', ')} }
fn channelsOf(ci: u32, lane: u32, cin: u32) -> C { return C(${places}); }
fn channels(at: vec4<u32>, c: C) -> Channels {
  ${[...loads, `return Channels(${vs.map(four).join(', ')});`].join('\n  ')}
}`;
}

/**
 * WGSL of the loads of a tile's operand from `array`, appended to the tiled kernels: `four(at, count)` is the place of the four
 * elements from `at` on, of which `count` exist; `read(place)` what is there, anything in place of what does not exist; `cut(place,
 * value)` has zeros for that. An array of vectors is read at multiples of four, where all four exist or none does.
 */
export function foursOf(suffix: 'A' | 'B', array: string, wide: boolean): string {
  return wide
    ? `
alias Place${suffix} = i32;
fn four${suffix}(p: vec2<u32>) -> i32 { return select(-1, i32(p.x / 4u), p.y > 0u); }
fn read${suffix}(p: i32) -> vec4<f32> { return ${array}[max(p, 0)]; }
fn cut${suffix}(p: i32, v: vec4<f32>) -> vec4<f32> { return select(v, vec4<f32>(), p < 0); }`
    : `
alias Place${suffix} = vec4<i32>;
fn four${suffix}(p: vec2<u32>) -> vec4<i32> {
  return select(vec4(-1), vec4(i32(p.x)) + vec4(0, 1, 2, 3), vec4(0u, 1u, 2u, 3u) < vec4(p.y));
}
fn read${suffix}(p: vec4<i32>) -> vec4<f32> {
  let q = max(p, vec4(0));
  return vec4(${['x', 'y', 'z', 'w'].map((c) => `${array}[q.${c}]`).join(', ')});
}
fn cut${suffix}(p: vec4<i32>, v: vec4<f32>) -> vec4<f32> { return select(v, vec4<f32>(), p < vec4(0)); }`;
}

/** WGSL that writes up to four neighbours of an array of vec4<f32> or f32; appended to the tiled kernels. */
export function putText(array: string, wide: boolean): string {
  return wide
    ? `
fn putY(at: u32, count: u32, value: vec4<f32>) { ${array}[at / 4u] = value; }`
    : `
fn putY(at: u32, count: u32, value: vec4<f32>) {
  for (var j = 0u; j < min(4u, count); j++) { ${array}[at + j] = value[j]; }
}`;
}

/** vec4<f32> or f32, as the name of an alias. */
export const vec = (wide: boolean) => (wide ? 'vec4<f32>' : 'f32');
