/** Repetitions, taken in turns so that what disturbs the machine disturbs all alike. */
import { availableParallelism } from 'node:os';
import { Device } from '../src/engine/device.ts';
import { InputError } from '../src/engine/errors.ts';
import type { Program } from '../src/engine/program.ts';
import type { Tensor } from '../src/engine/tensor.ts';
import { waitFor } from '../src/engine/wait.ts';
import { runsAtOnce } from '../src/kernels/tune.ts';
import { checkWritable } from '../src/report/files.ts';
import { median, quantile } from '../src/report/statistics.ts';

/** The word after `name`; both are taken out of `words`. @throws InputError where there is none, or the flag comes again */
export function take(words: string[], name: string): string | undefined {
  const at = words.indexOf(name);
  if (at < 0) return undefined;
  const [, value] = words.splice(at, 2);
  if (value === undefined || value.startsWith('--')) throw new InputError(`${name} wants a value`);
  if (words.includes(name)) throw new InputError(`${name} is given twice`);
  return value;
}

/** A file to write, which must be possible before anything is measured. @throws InputError */
export function takeOutput(words: string[], name: string): string | undefined {
  const path = take(words, name);
  checkWritable(path);
  return path;
}

/**
 * @param plain whether words that are no flags mean something
 * @throws InputError for what nobody took
 */
export function refuseFlags(words: readonly string[], plain = true): void {
  const strange = words.find((word) => !plain || word.startsWith('--'));
  if (strange) throw new InputError(`${strange} is not known here; bench/README.md lists the flags`);
}

/** The positive number after a flag. @throws InputError */
export function positive(name: string, text: string | undefined, usual: number): number {
  const value = text === undefined ? usual : Number(text);
  if (!(value > 0 && value < Number.POSITIVE_INFINITY))
    throw new InputError(`${name} wants a positive number, got ${text}`);
  return value;
}

/** The words of the command line but for the one that chose what is run. */
export const wordsAfter = (mode: string) => process.argv.slice(2).filter((word) => word !== mode);

/** What whole networks and training share: their flags, the device, and what is said of it. @throws InputError */
export async function openRun(words: string[]) {
  const json = takeOutput(words, '--json');
  const only = take(words, '--only')?.split(',');
  const asked = take(words, '--repetitions');
  refuseFlags(words, false);
  const device = await Device.open();
  const repetitions = positive('--repetitions', asked, device.capabilities.cpu ? 3 : 10);
  const { name, driver, precision } = device.adapter;
  const date = new Date().toISOString().slice(0, 10);
  console.log(`${name}, ${driver || 'driver not stated'}, ${precision}, ${date}`);
  const wanted = (title: string) => !only || only.some((word) => title.includes(word));
  return { json, only, wanted, device, repetitions, date };
}

export interface Runner {
  readonly name: string;
  /** One repetition to its end; times in milliseconds where they are taken elsewhere. */
  once(): Promise<unknown>;
}

export interface Timing {
  readonly medianMs: number;
  /** First and third quartile. */
  readonly spread: readonly [number, number];
  readonly minMs: number;
  /** Processor time of the whole process: on a software driver the work itself, whoever else is running. */
  readonly cpuMs: number;
  readonly repetitions: number;
}

export interface Sample {
  readonly ms: number;
  readonly cpuMs: number;
}

/**
 * Relative error in norm of results on a device of precision f16, against the same by f32 kernels; null on another.
 * @param make what computes them; called twice
 */
export async function roundingOf(
  device: Device,
  make: () => { readonly program: Program<readonly Tensor[]>; dispose(): void },
): Promise<number | null> {
  const before = device.capabilities;
  if (before.matrix === 0) return null;
  const results = async () => {
    const { program, dispose } = make();
    await program.prepare();
    program.run();
    const values: Float32Array[] = [];
    for (const t of program.outputs) values.push(await t.floats());
    dispose();
    return values;
  };
  const half = await results();
  let full: Float32Array[];
  try {
    device.capabilities = { ...before, matrix: 0 };
    full = await results();
  } finally {
    device.capabilities = before;
  }
  let [apart, norm] = [0, 0];
  full.forEach((values, i) => {
    values.forEach((v, j) => {
      apart += (v - (half[i]?.[j] as number)) ** 2;
      norm += v ** 2;
    });
  });
  return Math.sqrt(apart / norm);
}

function summarise(samples: readonly Sample[]): Timing {
  const times = samples.map(({ ms }) => ms);
  return {
    medianMs: median(times),
    spread: [quantile(times, 0.25), quantile(times, 0.75)],
    minMs: Math.min(...times),
    cpuMs: median(samples.map(({ cpuMs }) => cpuMs)),
    repetitions: times.length,
  };
}

async function sampled(f: () => Promise<unknown>, runs = 1): Promise<Sample> {
  const cpu = process.cpuUsage();
  const start = performance.now();
  await f();
  const ms = performance.now() - start;
  const { user, system } = process.cpuUsage(cpu);
  return { ms: ms / runs, cpuMs: (user + system) / 1000 / runs };
}

async function timed(runner: Runner): Promise<Sample> {
  let own: Sample | undefined;
  // Peers too wait without a spinning core, so that what is compared are kernels.
  const outer = await sampled(async () => {
    own = (await waitFor(runner.once())) as Sample | undefined;
  });
  return own?.ms === undefined ? outer : own;
}

/**
 * A repetition of `run` until the device is idle; on a GPU of many runs at once, whose times are divided.
 * @param run submits so many
 */
export async function repetition(
  device: Device,
  run: (times: number) => void,
): Promise<() => Promise<Sample>> {
  const runs = await runsAtOnce(device, run);
  return () =>
    sampled(async () => {
      run(runs);
      await device.sync();
    }, runs);
}

/**
 * Times runners round by round, after one round (two of quick ones) to warm up. A runner sits out once it has taken
 * `seconds` and `least` repetitions; its error takes it out and is returned in its place. Runners slower than five seconds do three repetitions.
 */
export async function interleave(
  runners: readonly Runner[],
  { seconds = 2, least = 5, most = 40 } = {},
): Promise<Map<string, Timing | Error>> {
  const results = new Map<string, Timing | Error>();
  const times = new Map<Runner, Sample[]>();
  const slow = new Set<Runner>();
  for (const runner of runners) {
    try {
      const { ms } = await timed(runner);
      if (ms < 500) await runner.once();
      if (ms > 5000) slow.add(runner);
      times.set(runner, []);
    } catch (error) {
      results.set(runner.name, error as Error);
    }
  }
  for (let round = 0; round < most; round++) {
    for (const [runner, taken] of times) {
      const total = taken.reduce((sum, { ms }) => sum + ms, 0);
      if (taken.length >= (slow.has(runner) ? Math.min(3, least) : least) && total > 1000 * seconds) continue;
      try {
        taken.push(await timed(runner));
      } catch (error) {
        results.set(runner.name, error as Error);
        times.delete(runner);
      }
    }
  }
  for (const [runner, taken] of times) results.set(runner.name, summarise(taken));
  return results;
}

/** What became of a peer: its time and its time over ours, or why there is none. */
export type PeerTime =
  | (Pick<Timing, 'medianMs' | 'cpuMs' | 'spread'> & {
      readonly ratio: number;
      /** Processor time over ours: the ratio that other processes do not disturb. */
      readonly cpuRatio: number;
      /** Of a kernel's results. */
      readonly difference?: number;
    })
  | { readonly error: string };

export function peerTime(time: Timing | Error, own: Timing): PeerTime {
  if (time instanceof Error) return { error: time.message.split('\n')[0] || String(time) };
  const { medianMs, cpuMs, spread } = time;
  return { medianMs, cpuMs, spread, ratio: medianMs / own.medianMs, cpuRatio: cpuMs / own.cpuMs };
}

/** A peer in a table: `1.5x`, on a software driver with the ratio of processor times, or `no`. */
export function peerCell(time: PeerTime | undefined, { capabilities: { cpu } }: Device): string {
  if (!time) return '';
  return 'error' in time ? 'no' : `${number(time.ratio)}x${cpu ? ` (${number(time.cpuRatio)}x)` : ''}`;
}

/**
 * What counts against a roof: the fastest repetition on a GPU, and on a software driver the processor time spread over
 * all cores, which other processes do not disturb.
 */
export function busyMs(device: Device, { minMs, cpuMs }: Timing): number {
  return device.capabilities.cpu ? cpuMs / availableParallelism() : minMs;
}

/** Names of the kernels that `f` dispatches, in order. */
export function dispatched(device: Device, f: () => void): string[] {
  const names: string[] = [];
  const { dispatch } = device;
  device.dispatch = (...args) => {
    names.push(args[0].name);
    dispatch.apply(device, args);
  };
  try {
    f();
  } finally {
    device.dispatch = dispatch;
  }
  return names;
}

/** Kernel names as a variant: `conv2d-subgroup SG=8 J=4 + matmul-sum`; texts and switches left out. */
export function variantOf(names: readonly string[]): string {
  const short = names.map((name) => {
    const [base = '', rest = ''] = name.split('[');
    const tuned = rest.match(/\b(?:SG|J|ROWS|TILE|THREADS|KEYS|PARTS|LANES)=\d+/g) ?? [];
    const texels = /\bTEXELS=true\b/.test(rest) ? ['texels'] : [];
    return [base, ...tuned, ...texels].join(' ');
  });
  return [...new Set(short)].join(' + ');
}

export const number = (v: number) =>
  v >= 100 ? v.toFixed(0) : v >= 10 ? v.toFixed(1) : v >= 1 ? v.toFixed(2) : v.toPrecision(2);
export const percent = (v: number) => `${(100 * v).toFixed(0)} %`;
