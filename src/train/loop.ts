/**
 * The loop of every kind of training. A few updates stay in flight while the host prepares the next batch; losses are read
 * without waiting for them; the state is saved now and then and at the end, and an interrupted run goes on from there.
 */
import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Device } from '../engine/device.ts';
import { CmapError, InputError } from '../engine/errors.ts';
import { cannotRead } from '../formats/read.ts';
import { cannotWrite, ensureDirectory, writeFileAtomic } from '../report/files.ts';
import { lockFolder } from '../report/lock.ts';
import {
  continued,
  loadCheckpoint,
  NotFiniteError,
  type SavedRun,
  saveCheckpoint,
  savedRun,
  saveResult,
} from './checkpoint.ts';
import { checkFiles, type TrainConfig } from './config.ts';
import type { TrainingData } from './data.ts';
import { learningRate } from './schedules.ts';
import { type Look, netConfigOf, Session } from './session.ts';

/** A line of the log. */
export interface LogEntry {
  /** Updates made, this one included. */
  readonly step: number;
  readonly loss: number;
  /** Norm of the gradient before clipping. */
  readonly norm: number;
  readonly lr: number;
  /** Since the run began, as the update was read, without pauses between a stop and a resume. */
  readonly seconds: number;
  /** Since the run began or was resumed, saving and sampling apart. */
  readonly images_per_second: number;
  /** Of `seconds`, those that the device had nothing to do until a batch was made. */
  readonly waited: number;
  readonly [more: string]: number;
}

export interface TrainHooks {
  /** Kernels compile. */
  readonly onCompile?: (done: number, total: number) => void;
  /** An update has finished. */
  readonly onStep?: (done: number, total: number) => void;
  /** Losses were read. */
  readonly onLog?: (entries: readonly LogEntry[], imagesPerSecond: number) => void;
  readonly onLook?: (step: number, look: Look) => void | Promise<void>;
  /** The state was saved, and the log is up to it. */
  readonly onCheckpoint?: (step: number) => void | Promise<void>;
  /** Something that the user should know, in a line. */
  readonly onNotice?: (text: string) => void;
  /** Ends the run after the updates in flight, with a checkpoint. */
  readonly signal?: AbortSignal;
}

export interface TrainResult {
  readonly steps: number;
  readonly interrupted: boolean;
  /** Of the last log line; NaN where there is none. */
  readonly loss: number;
  readonly seconds: number;
  readonly imagesPerSecond: number;
  /** Seconds that the device had nothing to do until a batch was made. */
  readonly waited: number;
}

export const files = {
  config: 'config.json',
  net: 'net.json',
  log: 'log.jsonl',
  checkpoint: 'checkpoint.safetensors',
  result: 'weights.safetensors',
} as const;

const within = (out: string) => (name: keyof typeof files) => join(out, files[name]);

/** The run in the folder. @throws InputError when there is none that could go on */
export function resumed(out: string): SavedRun {
  const path = within(out)('checkpoint');
  if (!existsSync(path)) throw new InputError(`${path}: is not there; there is nothing to resume`);
  return savedRun(path);
}

/** @throws InputError where a run is in the folder already */
export function checkUnused(out: string): void {
  const path = within(out)('checkpoint');
  if (existsSync(path))
    throw new InputError(`${path}: is there already; go on with --resume, or choose another --out`);
}

/** Whether all of its updates are made and its result is written. */
export function isFinished(out: string, { step }: SavedRun, { steps }: TrainConfig): boolean {
  const path = within(out)('result');
  return step === steps && existsSync(path) && savedRun(path).step === step;
}

/**
 * Trains into the folder `out`, which is made when all else is known to be there.
 * @param resume go on from its checkpoint; a finished run stays as it is. Without it a folder that has one is refused
 * @throws InputError for a configuration that cannot be run; CmapError when the loss or a gradient is no number any more
 */
export async function train(
  device: Device,
  config: TrainConfig,
  data: TrainingData,
  { out, resume = false }: { readonly out: string; readonly resume?: boolean },
  hooks: TrainHooks = {},
): Promise<TrainResult> {
  const path = within(out);
  if (!resume) checkUnused(out);
  checkFiles(config);
  if (resume) resumed(out);
  // Two runs in one folder would each end well, and one of them be lost.
  let unlock = resume ? lockFolder(out) : () => {};
  let session: Session | null = null;
  try {
    const saved = resume ? resumed(out) : null;
    const changed = saved ? continued(path('checkpoint'), saved, config) : {};
    const kept = saved ? keptLog(path('log'), saved.step) : [];
    const before = kept.findLast((line): line is LogEntry => 'loss' in line);
    if (saved && isFinished(out, saved, config))
      return {
        steps: saved.step,
        interrupted: false,
        loss: before?.loss ?? Number.NaN,
        seconds: 0,
        imagesPerSecond: 0,
        waited: 0,
      };
    session = await Session.open(device, config, data, saved ? path('checkpoint') : undefined);
    if (saved) loadCheckpoint(path('checkpoint'), session);
    else {
      ensureDirectory(out);
      unlock = lockFolder(out);
      checkUnused(out);
    }
    if (saved && saved.adapter !== device.adapter.name)
      hooks.onNotice?.(
        `the checkpoint was made on ${saved.adapter}, this is ${device.adapter.name}: what follows is not bit for bit what would have followed there`,
      );
    const first = saved?.step ?? 0;
    writeFileAtomic(path('config'), `${JSON.stringify(config, null, 1)}\n`);
    writeFileAtomic(path('net'), `${JSON.stringify(netConfigOf(config, data.classes), null, 1)}\n`);
    const lines = Object.keys(changed).length > 0 ? [...kept, { step: first, changed }] : kept;
    writeFileAtomic(path('log'), lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
    return await loop(session, first, before, path, hooks);
  } finally {
    session?.dispose();
    unlock();
  }
}

/** The lines of a log up to an update: what was done after the checkpoint is done again. */
function keptLog(path: string, step: number): (LogEntry | { step: number; changed: object })[] {
  // A change at that very update was of a run that came to no checkpoint.
  return readLog(path).filter((line) => ('loss' in line ? line.step <= step : line.step < step));
}

/** The lines of a log; the last of a run that was killed may be none. */
function readLog(path: string): (LogEntry | { step: number; changed: object })[] {
  if (!existsSync(path)) return [];
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw cannotRead(path, error);
  }
  return text.split('\n').flatMap((line) => {
    try {
      return [JSON.parse(line) as LogEntry];
    } catch {
      return [];
    }
  });
}

/** What the log of a run says of its updates; empty where there is none. */
export function readLosses(out: string): LogEntry[] {
  return readLog(within(out)('log')).filter((line): line is LogEntry => 'loss' in line);
}

async function loop(
  session: Session,
  first: number,
  before: LogEntry | undefined,
  path: (name: keyof typeof files) => string,
  hooks: TrainHooks,
): Promise<TrainResult> {
  const { config, step, recipe, batches, device } = session;
  const { steps, log_every, checkpoint_every, sample_every } = config;
  // Made while kernels compile; a damaged file is met in the loop.
  if (first < steps) batches.ready(first).catch(() => {});
  await step.program.prepare(hooks.onCompile);
  const started = performance.now();
  let loss = before?.loss ?? Number.NaN;
  let finished = first;
  let saved = first;
  const seconds = () => (performance.now() - started) / 1000;
  // Saving and looking are no part of the speed.
  let aside = 0;
  let waited = 0;
  let idleFrom = 0;
  const images = config.batch * config.accumulate;
  /** Images/s until `updates` were made. */
  const rate = (updates: number) => (updates * images) / Math.max(1e-9, seconds() - aside);
  const setAside = async (f: () => Promise<void>) => {
    const from = seconds();
    await f();
    aside += seconds() - from;
  };

  /** Losses of the updates from..to−1, read while later updates run. */
  const read = async (from: number, to: number): Promise<void> => {
    const rows = step.trace.rows.floats();
    step.trace.step.write([0]);
    const values = await rows;
    const speed = rate(to - first);
    const clock = {
      seconds: Number(((before?.seconds ?? 0) + seconds()).toFixed(3)),
      images_per_second: Number(speed.toPrecision(4)),
      waited: Number(((before?.waited ?? 0) + waited).toFixed(3)),
    };
    const entries: LogEntry[] = [];
    for (let t = from; t < to; t++) {
      const [value, norm] = values.subarray(2 * (t - from)) as unknown as [number, number];
      if (!Number.isFinite(value) || !Number.isFinite(norm)) {
        append(path('log'), entries);
        await batches.ready(t);
        const why = await step.diagnose(t);
        throw new CmapError(
          `train: update ${t + 1}: the loss is ${value}, the gradient's norm ${norm}: ${why}; ${wayOn(saved, path('checkpoint'), t)}`,
        );
      }
      const lr = learningRate(config, t);
      entries.push({ step: t + 1, loss: value, norm, lr, ...recipe.describe?.(t), ...clock });
      loss = value;
    }
    append(path('log'), entries);
    hooks.onLog?.(entries, speed);
  };

  const save = async (done: number) => {
    try {
      await saveCheckpoint(path('checkpoint'), session, done);
    } catch (error) {
      if (!(error instanceof NotFiniteError)) throw error;
      throw new CmapError(`train: ${error.message}; ${wayOn(saved, path('checkpoint'), done)}`);
    }
    saved = done;
    await hooks.onCheckpoint?.(done);
  };
  const look = async (t: number) => {
    const { onLook } = hooks;
    if (onLook) await setAside(async () => onLook(t, await session.look(t === steps)));
  };

  const inFlight: Promise<void>[] = [];
  let reading: Promise<void> = Promise.resolve();
  let unread = first;
  const readUpTo = (to: number) => {
    if (to === unread) return;
    const [from, before] = [unread, reading];
    unread = to;
    const next = read(from, to);
    reading = before.then(() => next);
    reading.catch(() => {}); // thrown where it is awaited
  };
  const settle = async (t: number) => {
    readUpTo(t);
    await Promise.all(inFlight.splice(0));
    await reading;
  };

  let t = first;
  // Killed after its last checkpoint.
  if (first === steps) await look(first);
  while (t < steps && !hooks.signal?.aborted) {
    const asked = seconds();
    try {
      // While earlier updates run.
      await batches.ready(t);
    } catch (error) {
      // A damaged file: what was done until then is kept.
      await settle(t);
      if (t > first) await save(t);
      throw error;
    }
    if (finished === t) waited += seconds() - Math.max(asked, idleFrom);
    step.run(t++);
    const done = device.sync().then(() => {
      idleFrom = seconds();
      finished++;
      hooks.onStep?.(finished, steps);
    });
    done.catch(() => {});
    inFlight.push(done);
    if (inFlight.length >= 3) await inFlight.shift();
    // The first at once, for whoever waits to see that it learns.
    if (t - first === 1 || (t - first) % log_every === 0) {
      await reading; // of the interval before
      readUpTo(t);
    }
    const last = t === steps;
    if (last || t % checkpoint_every === 0) {
      await settle(t);
      await setAside(() => save(t));
    }
    if (last || (sample_every > 0 && t % sample_every === 0)) {
      await settle(t);
      await look(t);
    }
  }
  await settle(t);
  const interrupted = t < steps;
  if (!interrupted) await saveResult(path('result'), session, t);
  // Without an update the checkpoint that was begun from stays.
  else if (t > first || first === 0) await setAside(() => save(t));
  return { steps: t, interrupted, loss, seconds: seconds(), imagesPerSecond: rate(finished - first), waited };
}

/** After `done` updates the next is no number. @param saved updates in the last checkpoint; 0 is none */
function wayOn(saved: number, path: string, done: number): string {
  if (saved === 0) return 'no checkpoint was written yet; begin anew with a lower lr, or clip=1';
  if (saved === done)
    return `${path} is of the update before, which went wrong already; begin anew with a lower lr, or clip=1`;
  return `${path} is of update ${saved}; --resume with a lower lr=, or clip=1, may go on from it`;
}

function append(path: string, entries: readonly LogEntry[]): void {
  try {
    appendFileSync(path, entries.map((entry) => `${JSON.stringify(entry)}\n`).join(''));
  } catch (error) {
    throw cannotWrite(path, error);
  }
}
