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
 * last column in place of those past it; `biases(places)` their biases, zeros without; `store(at, c, count, places, value)` writes to the row
 * that begins at the item `at`, and leaves out columns past the last.
 * @param count columns of the matrix
 * @param bias the binding of the bias, if there is one
 */
export function laneText(columns: number, count: number, bias?: number) {
  const T = columns === 1 ? 'f32' : `vec${columns}<f32>`;
  const together = neighbours(columns, count);
  const single = together || columns === 1;
  const all = (f: (j: number) => string) => Array.from({ length: columns }, (_, j) => f(j));
  const column = (j: number) => (j === 0 ? 'c' : `c + ${j}u * SG`);
  const places = together
    ? `min(c, count - ${columns}u) / ${columns}u`
    : all((j) => `min(${column(j)}, count - 1u)`).join(', ');
  /** Those of the row that begins at the item `row`, where `item` is the text of an item. */
  const read = (item: (at: string) => string, row: string) =>
    together ? item(`${row}p`) : `T(${all((j) => item(`${row}${single ? 'p' : `p[${j}]`}`)).join(', ')})`;
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
${bias === undefined ? '' : `@group(0) @binding(${bias}) var<storage, read> bias: array<W>;`}
fn biases(p: P) -> T { return ${bias === undefined ? 'T()' : read((at) => `bias[${at}]`, '')}; }
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

/** The loads for the next step of a tile. */
const NEXT = [
  'placeA$i = placeA(row$i, z, k0 + KT);',
  'a_$i = readA(placeA$i);',
  'placeB$j = placeB(column$j, z, k0 + KT);',
  'b_$j = readB(placeB$j);',
].join('\n');

/** matmul-tile.wgsl or matmul-tile-matrix.wgsl with its lines repeated. */
export const tileText = (source: string, loops: readonly Loop[]) =>
  repeat(
    source.replace(/^ *\$next$/gm, () => NEXT),
    loops,
  ) + loadsSource;

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
    source: tileText(tileSource, loops),
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
 * WGSL of a lane's columns of four rows of a matrix of k rows, whose items are `itemB`, appended to the subgroup kernels:
 * `quad(first, q, starts, row, k)` has them in w0, w1, ..., for the rows 4q, 4q + 1, ..., the last one in place of those past
 * it; first is the matrix's first item, row the items of a row, and `startsOf(places, k)` what is the same for all q.
 * Where k is a multiple of 4 (`wide`) there is no row past the last, and a turned matrix, which is stored by columns, is read
 * in fours along them.
 */
export function rowsText(lane: ReturnType<typeof laneText>, turned: boolean, wide: boolean) {
  const js = Array.from({ length: lane.columns }, (_, j) => j);
  const qs = [0, 1, 2, 3];
  const of = (vector: string, j: number) => (lane.columns > 1 ? `${vector}[${j}]` : vector);
  const row = (q: number) => (wide ? `(4u * q + ${q}u)` : `min(4u * q + ${q}u, k - 1u)`);
  const body = turned
    ? js.map((j) => {
        const at = `first + ${of('s', j)}`;
        const rows = qs.map((q) => `itemB(${at} + ${row(q)})`);
        return `let w${j} = ${wide ? `itemB(${at} + q)` : `vec4(${rows.join(', ')})`};`;
      })
    : [
        ...qs.map((q) => `let r${q} = ${lane.read((at) => `itemB(${at})`, `first + ${row(q)} * row + `)};`),
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
 * How a subgroup loads rows: `along` them in fours, element by element (`single`), or in fours of rows. These are `adjacent` in a
 * lane, where four lanes have 16, or else `dealt` to the lanes, each of which then has its own of the four elements.
 */
export type Order = 'along' | Across;
type Across = 'single' | 'adjacent' | 'dealt';

/** How rows are loaded that lie across memory, `count` of them in all. */
export function orderAcross(lanes: 4 | 8, rows: number, count: number): Across {
  if (count % 4 !== 0) return 'single';
  if (lanes === 8) return 'dealt';
  return rows === 16 ? 'adjacent' : 'single';
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

/** WGSL of `Fours`, the registers of a lane, and of `row3(x)`, the four elements of row 3 of what all lanes have loaded. */
function rowText(rows: number, lanes: 4 | 8, dealt: boolean): string {
  const quads = rows / 4;
  const spread = (r: number) => `spread${r % lanes}(x.v${Math.floor(r / lanes)})`;
  const gather = (r: number) => {
    const place = (k: number) => k * quads + Math.floor(r / 4);
    return `vec4(${range(4).map((k) => `subgroupBroadcast(x.v${Math.floor(place(k) / lanes)}[${r % 4}], ${place(k) % lanes}u)`)})`;
  };
  return `
struct Fours { ${range(rows / lanes)
    .map((v) => `v${v}: vec4<f32>`)
    .join(', ')} }
${range(rows)
  .map((r) => `fn row${r}(x: Fours) -> vec4<f32> { return ${dealt ? gather(r) : spread(r)}; }`)
  .join('\n')}`;
}

/**
 * WGSL of the rows of a matrix, whose items are `itemA`, that a subgroup loads in a product: `rowsOf(p, first, m0, lane)` where the lane's
 * lie, the last in place of those past it; `fours(p, own, q)` what it loads of their elements 4q to 4q + 3, zeros past the last; and
 * of `rowText` what all have loaded.
 * @param whole whether a row's length is a multiple of 4
 */
export function foursText(rows: number, lanes: 4 | 8, order: Order, whole: boolean): string {
  const registers = range(rows / lanes);
  const quads = rows / 4;
  const item = (at: string, k: string) =>
    whole
      ? `itemA(${at} + ${k} * p.aColumn)`
      : `select(X(), itemA(${at} + min(${k}, p.k - 1u) * p.aColumn), ${k} < p.k)`;
  const place = (m: string) => `first + min(${m}, p.m / 4u - 1u)`;
  const singles = (at: string) => range(4).map((k) => item(at, `(4u * q + ${k}u)`));
  const apart = {
    Rows: `array<u32, ${registers.length}>`,
    own: registers.map((v) => `first + min(m0 + ${v}u * SG + lane, p.m - 1u) * p.aRow`),
    loads: [],
  };
  const text = {
    along: { ...apart, four: (v: number) => `itemA(own[${v}] + q)` },
    single: { ...apart, four: (v: number) => `vec4(${singles(`own[${v}]`).join(', ')})` },
    adjacent: {
      Rows: 'u32',
      own: [place('m0 / 4u + lane')],
      loads: singles('own').map((load, k) => `let p${k} = ${load};`),
      four: (v: number) => `vec4(${range(4).map((k) => `p${k}[${v}]`)})`,
    },
    dealt: {
      Rows: 'vec2<u32>',
      own: [place(`m0 / 4u + lane % ${quads}u`), `lane / ${quads}u`],
      loads: [],
      four: (v: number) => item('own.x', `(4u * q + ${(v * lanes) / quads}u + own.y)`),
    },
  }[order];
  return `
alias Rows = ${text.Rows};
fn rowsOf(p: Params, first: u32, m0: u32, lane: u32) -> Rows { return Rows(${text.own.join(', ')}); }
fn fours(p: Params, own: Rows, q: u32) -> Fours {
  ${[...text.loads, `return Fours(${registers.map(text.four).join(', ')});`].join('\n  ')}
}${rowText(rows, lanes, order === 'dealt')}`;
}

/**
 * WGSL of the rows that a subgroup loads in the kernel gradient, channels of four pixels of x, whose items are `itemA`:
 * `channelsOf(ci, lane, cin)` where the lane's channels lie in a pixel, the last in place of those past it; `channels(at, keep, own)` what
 * it loads of the pixels that begin at the items `at`, times `keep`; and of `rowText` what all have loaded.
 */
export function channelsText(rows: number, lanes: 4 | 8, order: Across): string {
  const registers = range(rows / lanes);
  const quads = rows / 4;
  const fields = ['x', 'y', 'z', 'w'];
  const place = (c: string) => `min(${c}, cin / 4u - 1u)`;
  const text = {
    single: {
      C: `array<u32, ${registers.length}>`,
      own: registers.map((v) => `min(ci + ${v}u * SG + lane, cin - 1u)`),
      loads: [],
      four: (v: number) => `vec4(${fields.map((f) => `itemA(at.${f} + own[${v}])`).join(', ')}) * keep`,
    },
    adjacent: {
      C: 'u32',
      own: [place('ci / 4u + lane')],
      loads: fields.map((f) => `let p${f} = itemA(at.${f} + own);`),
      four: (v: number) => `vec4(${fields.map((f) => `p${f}[${v}]`).join(', ')}) * keep`,
    },
    dealt: {
      C: 'vec2<u32>',
      own: [place(`ci / 4u + lane % ${quads}u`), `lane / ${quads}u`],
      loads: registers.map((v) => `let k${v} = ${(v * lanes) / quads}u + own.y;`),
      four: (v: number) => `itemA(at[k${v}] + own.x) * keep[k${v}]`,
    },
  }[order];
  return `
alias C = ${text.C};
fn channelsOf(ci: u32, lane: u32, cin: u32) -> C { return C(${text.own.join(', ')}); }
fn channels(at: vec4<u32>, keep: vec4<f32>, own: C) -> Fours {
  ${[...text.loads, `return Fours(${registers.map(text.four).join(', ')});`].join('\n  ')}
}${rowText(rows, lanes, order === 'dealt')}`;
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
