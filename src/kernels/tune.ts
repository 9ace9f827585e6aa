/**
 * Measures the variants of the heavy operations for given problems on this device. A variant may win only if its
 * result equals the safe kernel's (`direct`), and only by more than the noise.
 */
import type { Device } from '../engine/device.ts';
import { CmapError } from '../engine/errors.ts';
import { type RandomOptions, randomNormal } from '../engine/random.ts';
import type { Tensor } from '../engine/tensor.ts';
import { itemText } from '../engine/texels.ts';
import { type Problem, Tuning } from '../engine/tuning.ts';
import { type Conv2dVariant, conv2dCandidates, conv2dProblem } from './conv2d.ts';
import directConvolution from './conv2d-direct.wgsl';
import subgroupConvolution from './conv2d-subgroup.wgsl';
import tiledConvolution from './conv2d-tiled.wgsl';
import weight from './conv2d-weight.wgsl';
import weightSubgroup from './conv2d-weight-subgroup.wgsl';
import weightTiled from './conv2d-weight-tiled.wgsl';
import { matmulCandidates, matmulProblem } from './matmul.ts';
import directProduct from './matmul-direct.wgsl';
import subgroupProduct from './matmul-subgroup.wgsl';
import tile from './matmul-tile.wgsl';
import tileLoads from './matmul-tile-loads.wgsl';
import matrixTile from './matmul-tile-matrix.wgsl';
import tiledProduct from './matmul-tiled.wgsl';
import {
  channelsText,
  foursOf,
  foursText,
  laneText,
  putText,
  rowsText,
  tileOf,
  unroll,
} from './product-text.ts';
import { winogradTexts } from './winograd.ts';

/** What the tuned kernels are completed with, for a few arguments. */
const completions = () =>
  [1, 2, 4].flatMap((columns) => {
    const lane = laneText(columns, 64);
    const rows = [true, false].flatMap((wide) => [
      ...[true, false].map((turned) => rowsText(lane, turned, wide).text),
      foursText(16, 4, wide ? 'along' : 'adjacent', wide),
      foursText(16, 8, wide ? 'dealt' : 'single', wide),
      foursOf('A', 'a', wide),
      putText('y', wide),
    ]);
    const repeated = ([4, 8] as const).map((lanes) => unroll('s$r_$j $v $l $sums\n', 16, lanes, columns));
    const orders = (['single', 'adjacent', 'dealt'] as const).map((order) =>
      channelsText(16, order === 'dealt' ? 8 : 4, order),
    );
    const items = [true, false].map((texels) =>
      itemText('A', { binding: 0, name: 'a', type: lane.T }, texels),
    );
    return [lane.text, ...rows, ...repeated, ...items, ...orders];
  });

/**
 * Changes with the sources of the kernels that are tuned: choices for others are void. FNV-1a, hexadecimal. Takes some
 * milliseconds, so only those ask who read or write a table.
 */
export const kernelsVersion = () =>
  [
    directConvolution,
    subgroupConvolution,
    tiledConvolution,
    weight,
    weightSubgroup,
    weightTiled,
    directProduct,
    subgroupProduct,
    tile,
    tileLoads,
    matrixTile,
    tiledProduct,
    ...winogradTexts,
    ...completions(),
    ...([32, 64, 128] as const).map((tile) =>
      JSON.stringify(tileOf({ tile, way: 'tall' }, { cpu: false, maxWorkgroupStorage: 2 ** 16 }).constants),
    ),
  ]
    .join('\n')
    .split('')
    .reduce((hash, c) => Math.imul(hash ^ c.charCodeAt(0), 0x01000193) >>> 0, 0x811c9dc5)
    .toString(16)
    .padStart(8, '0');

export interface Tuned {
  readonly problem: Problem;
  /** 'static' where the static choice is the best, or as good. */
  readonly choice: Conv2dVariant | 'static';
  /** Milliseconds of a run, the lower quartile, by variant; null where its result was wrong. */
  readonly milliseconds: Readonly<Record<string, number | null>>;
}

export interface TuneOptions {
  /** Most seconds for one problem, first runs not counted; default 1. */
  readonly seconds?: number;
  readonly onProblem?: (done: number, total: number, tuned: Tuned | null) => void;
}

/** Relative error in norm beyond which a variant is wrong: sums of thousands of terms in f32, in another order. */
const TOLERANCE = 2e-5;
/** The same where factors are rounded to f16. */
const HALF_TOLERANCE = 1e-3;
/** What a variant must gain to be preferred to the static choice. */
const GAIN = 0.95;

/** Milliseconds that a measured submission takes on a GPU at least: to submit and to wait takes some tenths of one. */
const LEAST_MS = 10;

/**
 * How many runs to measure at once, so that what is measured is the run: one on a software driver.
 * @param run submits so many
 */
export async function runsAtOnce(device: Device, run: (times: number) => void): Promise<number> {
  if (device.capabilities.cpu) return 1;
  let start = 0;
  for (const times of [1, 8]) {
    start = performance.now();
    run(times);
    await device.sync();
  }
  return Math.min(1000, Math.ceil((8 * LEAST_MS) / (performance.now() - start)));
}

/** The problems that `f` meets when it is recorded, each once; nothing is run. */
export function problemsOf(device: Device, f: () => unknown): Problem[] {
  const found = new Map<string, Problem>();
  const before = device.tuning.onProblem;
  device.tuning.onProblem = (problem) => found.set(Tuning.keyOf(problem), problem);
  try {
    device.cost(f);
  } finally {
    device.tuning.onProblem = before;
  }
  return [...found.values()];
}

/** @throws CmapError for a problem of an unknown operation */
export async function tune(
  device: Device,
  problems: readonly Problem[],
  options: TuneOptions = {},
): Promise<Tuned[]> {
  const results: Tuned[] = [];
  for (const [i, problem] of problems.entries()) {
    options.onProblem?.(i, problems.length, results.at(-1) ?? null);
    results.push(await tuneOne(device, problem, options.seconds ?? 1));
  }
  options.onProblem?.(problems.length, problems.length, results.at(-1) ?? null);
  return results;
}

/** The variants of a problem, the safe kernel first. */
export function candidatesOf(problem: Problem, device: Device): Conv2dVariant[] {
  const { capabilities } = device;
  return problem.op === 'matmul' ? matmulCandidates(capabilities) : conv2dCandidates(problem, capabilities);
}

/** Runs a problem by a variant, or by the static choice. */
function runnerOf(
  problem: Problem,
  random: (shape: readonly number[]) => Tensor,
): (variant?: Conv2dVariant) => Tensor {
  if (problem.op !== 'matmul') return conv2dProblem(problem, random);
  return matmulProblem(problem, random) as (variant?: Conv2dVariant) => Tensor;
}

async function tuneOne(device: Device, problem: Problem, seconds: number): Promise<Tuned> {
  const inputs: Tensor[] = [];
  const random = (shape: readonly number[]) => {
    const options: RandomOptions = { seed: 1, purpose: inputs.length, step: 0 };
    const tensor = device.keep(device.scope(() => randomNormal(device, shape, options)));
    inputs.push(tensor);
    return tensor;
  };
  if (!['matmul', 'conv2d', 'conv2d-weight'].includes(String(problem.op)))
    throw new CmapError(`tune: there is no operation "${problem.op}"`);
  // Choices found before must not be measured as the static ones.
  const before = device.tuning;
  device.tuning = new Tuning();
  const run = runnerOf(problem, random);
  const all = candidatesOf(problem, device);
  const names = ['static', ...all] as const;
  const programs = new Map(
    names.map((name) => [
      name,
      device.record(`tune ${name}`, () => run(name === 'static' ? undefined : name)),
    ]),
  );
  const times = new Map<string, number[]>();
  const wrong = new Set<string>();
  const half = device.capabilities.matrix > 0;
  const toleranceOf = (name: string) =>
    half && (name === 'static' || name.startsWith('matrix')) ? HALF_TOLERANCE : TOLERANCE;
  const programOf = (name: string) =>
    programs.get(name as Conv2dVariant) as NonNullable<ReturnType<(typeof programs)['get']>>;
  // The candidate that the static choice is, if it is one: not timed twice.
  const own = names.find(
    (name) => name !== 'static' && programOf(name).signature === programOf('static').signature,
  );
  const timed = names.filter((name) => name !== own);
  let runs = 1;
  const sample = async (name: string) => {
    const start = performance.now();
    programOf(name).run(runs);
    await device.sync();
    times.get(name)?.push((performance.now() - start) / runs);
  };
  const candidates = all.filter((name) => name !== own);
  let choice: Tuned['choice'] = 'static';
  try {
    let safe: Float32Array | null = null;
    for (const name of ['direct', ...timed.filter((n) => n !== 'direct')]) {
      await programOf(name).prepare();
      const result = await programOf(name).run().floats();
      if (!safe) safe = result;
      // A NaN is no small difference.
      else if (!(difference(result, safe) <= toleranceOf(name))) wrong.add(name);
      times.set(name, []);
    }
    runs = await runsAtOnce(device, (n) => programOf('static').run(n));
    // In turns, so that what else the machine does falls on all alike.
    const end = performance.now() + 1000 * seconds;
    for (let round = 0; round < 5 || (performance.now() < end && round < 40); round++) {
      for (const name of timed) if (!wrong.has(name) && !hopeless(times, name)) await sample(name);
    }
    // Where the static choice is wrong, the safe kernel stands in its place, and must not be gained upon.
    const right = !wrong.has('static');
    if (!right) choice = 'direct';
    for (const name of candidates) {
      if (wrong.has(name) || !times.get(name)?.length) continue;
      if (quick(times, name) < (choice === 'static' ? GAIN : 1) * quick(times, choice)) choice = name;
    }
    // A winner has to win again.
    if (right && choice !== 'static') {
      for (const name of ['static', choice]) times.set(name, []);
      for (let round = 0; round < 9; round++) for (const name of ['static', choice]) await sample(name);
      if (quick(times, choice) >= GAIN * quick(times, 'static')) choice = 'static';
    }
  } finally {
    device.tuning = before;
    for (const program of programs.values()) program.dispose();
    for (const tensor of inputs) tensor.dispose();
  }
  const milliseconds = Object.fromEntries(
    names.map((name) => {
      const shown = name === own ? 'static' : name;
      return [name, wrong.has(shown) || !times.get(shown)?.length ? null : quick(times, shown)];
    }),
  );
  return { problem, choice, milliseconds };
}

/** After two runs, a variant whose best is over twice the best of all is not run again. */
function hopeless(times: ReadonlyMap<string, number[]>, name: string): boolean {
  const own = times.get(name) as number[];
  return own.length >= 2 && Math.min(...own) > 2 * Math.min(...[...times.values()].flat());
}

/** The lower quartile: what else runs on the machine only ever adds. */
function quick(times: ReadonlyMap<string, number[]>, name: string): number {
  const sorted = [...(times.get(name) as number[])].sort((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) / 4)] as number;
}

function difference(a: Float32Array, b: Float32Array): number {
  let apart = 0;
  let norm = 0;
  for (let i = 0; i < b.length; i++) {
    apart += ((a[i] as number) - (b[i] as number)) ** 2;
    norm += (b[i] as number) ** 2;
  }
  return norm > 0 ? Math.sqrt(apart / norm) : Math.sqrt(apart);
}
