/**
 * WGSL that products of matrices and convolutions share: parts that are appended to their kernels, and lines that are
 * repeated.
 */
import tileSource from './matmul-tile.wgsl';

/** Rows and columns of a workgroup's part of a product. */
export type Tile = 32 | 64 | 128;

/**
 * Whether a lane's columns are neighbours, read as one vector, or SG apart. Vectors take lavapipe two thirds of the
 * time of as many scalars, and SwiftShader 1.3 times as long.
 */
export function neighbours(lanes: number, columns: number, count: number): boolean {
  return lanes === 8 && (columns === 2 || columns === 4) && count % columns === 0;
}

/**
 * WGSL of a lane's columns, appended to the subgroup kernels: T holds them, W is the element of the arrays they are
 * stored in, `owned` is the first. Columns past the last read the last, and are not stored.
 * @param count columns of the matrix, which the kernel calls `limit`
 * @param bias whether there is a bias to read
 */
export function laneText(lanes: number, columns: number, count: number, limit: string, bias = true) {
  const T = columns === 1 ? 'f32' : `vec${columns}<f32>`;
  const together = neighbours(lanes, columns, count);
  const all = (f: (j: number) => string) => Array.from({ length: columns }, (_, j) => f(j));
  const at = (j: number) => (j === 0 ? 'c' : `c + ${j}u * SG`);
  const safe = (j: number) => `min(${at(j)}, ${limit} - 1u)`;
  const read = (array: string, row: string) =>
    together
      ? `${array}[(${row}min(c, ${limit} - ${columns}u)) / ${columns}u]`
      : `T(${all((j) => `${array}[${row}${safe(j)}]`).join(', ')})`;
  const stores = together
    ? [`if (c < ${limit}) { y[(at + c) / ${columns}u] = value; }`]
    : all((j) => `if (${at(j)} < ${limit}) { y[at + ${at(j)}] = value${columns > 1 ? `[${j}]` : ''}; }`);
  return {
    T,
    W: together ? T : 'f32',
    columns,
    limit,
    /** Column j of the lane, or the last. */
    column: (j: number) => (together ? `min(c + ${j}u, ${limit} - 1u)` : safe(j)),
    /** Those of a row, which begins at the element `row`. */
    read,
    text: `
fn owned(lane: u32) -> u32 { return lane${together ? ` * ${columns}u` : ''}; }
${bias ? `fn biases(c: u32) -> T { return ${read('bias', '')}; }` : ''}
fn store(at: u32, c: u32, value: T) {
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
  readonly also?: (i: number) => Readonly<Record<string, number>>;
}

/** A subgroup kernel for so many rows: row `$r` is in lane `$l` of register `$v`. */
export function unroll(source: string, rows: number, lanes: number): string {
  const place = (r: number) => ({ l: r % lanes, v: Math.floor(r / lanes) });
  return repeat(source, [
    { name: 'r', count: rows, also: place },
    { name: 'v', count: rows / lanes },
  ]);
}

/** matmul-tile.wgsl and its constants: a 4x4 part of the tile an invocation, or 8x8 of the largest, half as deep. */
export function tileOf(tile: Tile) {
  const [DOWN, QUADS, KT] = tile === 128 ? [8, 2, 8] : [4, 1, 16];
  const loops = [
    { name: 'r', count: DOWN },
    { name: 'q', count: QUADS },
  ];
  return { source: repeat(tileSource, loops), constants: { TILE: tile, DOWN, QUADS, KT } };
}

/**
 * WGSL of `quad`, appended to the subgroup kernels: a lane's columns of four rows of a matrix of `k` rows in `array`. A
 * turned matrix is stored by columns, and read in fours along them where k is a multiple of 4 (`wide`).
 */
export function rowsText(
  lane: ReturnType<typeof laneText>,
  array: string,
  turned: boolean,
  k: string,
  wide: boolean,
) {
  const js = Array.from({ length: lane.columns }, (_, j) => j);
  const step = (q: number) => `min(k + ${q}u, ${k} - 1u)`;
  const body = (): string[] => {
    if (!turned)
      return [
        `return Quad(${[0, 1, 2, 3].map((q) => lane.read(array, `first + ${step(q)} * ${lane.limit} + `)).join(', ')});`,
      ];
    const at = (j: number) => `first + ${lane.column(j)} * ${k}`;
    const loads = js.map((j) =>
      wide
        ? `let v${j} = ${array}[(${at(j)} + k) / 4u];`
        : `let v${j} = vec4(${[0, 1, 2, 3].map((q) => `${array}[${at(j)} + ${step(q)}]`).join(', ')});`,
    );
    const rows = ['x', 'y', 'z', 'w'].map((e) => `T(${js.map((j) => `v${j}.${e}`).join(', ')})`);
    return [...loads, `return Quad(${rows.join(', ')});`];
  };
  return {
    B: turned ? vec(wide) : lane.W,
    text: `
struct Quad { w0: T, w1: T, w2: T, w3: T }
fn quad(first: u32, k: u32, c: u32) -> Quad {
  ${body().join('\n  ')}
}`,
  };
}

/** WGSL that reads or writes four neighbours of an array of vec4<f32> or f32; appended to the tiled kernels. */
export function quadText(suffix: 'A' | 'B', array: string, wide: boolean): string {
  return wide
    ? `
fn quad${suffix}(at: u32, count: u32) -> vec4<f32> { return ${array}[at / 4u]; }
fn one${suffix}(at: u32) -> f32 { return ${array}[at / 4u][at % 4u]; }`
    : `
fn quad${suffix}(at: u32, count: u32) -> vec4<f32> {
  var v = vec4(${array}[at], 0.0, 0.0, 0.0);
  for (var j = 1u; j < min(4u, count); j++) { v[j] = ${array}[at + j]; }
  return v;
}
fn one${suffix}(at: u32) -> f32 { return ${array}[at]; }`;
}

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
