/**
 * The loop of every kind of training. A few updates stay in flight while the host prepares the next batch; losses are read
 * without waiting for them; the state is saved now and then and at the end, and an interrupted run goes on from there.
 */
import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Device } from '../engine/device.ts';
import { CmapError, InputError } from '../engine/errors.ts';
import { ensureDirectory, writeFileAtomic } from '../report/files.ts';
import { loadCheckpoint, NotFiniteError, saveCheckpoint, saveResult } from './checkpoint.ts';
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
  /** Ends the run after the updates in flight, with a checkpoint. */
  readonly signal?: AbortSignal;
}

export interface TrainResult {
  readonly steps: number;
  readonly interrupted: boolean;
  /** Of the last log line. */
  readonly loss: number;
  readonly seconds: number;
  readonly imagesPerSecond: number;
}

export const files = {
  config: 'config.json',
  net: 'net.json',
  log: 'log.jsonl',
  checkpoint: 'checkpoint.safetensors',
  result: 'weights.safetensors',
} as const;

/**
 * Trains into the folder `out`.
 * @param resume go on from its checkpoint; without it a folder that has one is refused
 * @throws InputError for a configuration that cannot be run; CmapError when the loss or a gradient is no number any more
 */
export async function train(
  device: Device,
  config: TrainConfig,
  data: TrainingData,
  { out, resume = false }: { readonly out: string; readonly resume?: boolean },
  hooks: TrainHooks = {},
): Promise<TrainResult> {
  const path = (name: keyof typeof files) => join(out, files[name]);
  if (!resume && existsSync(path('checkpoint')))
    throw new InputError(
      `${path('checkpoint')}: is there already; go on with --resume, or choose another --out`,
    );
  if (resume && !existsSync(path('checkpoint')))
    throw new InputError(`${path('checkpoint')}: is not there; there is nothing to resume`);
  checkFiles(config);
  const session = await Session.open(device, config, data);
  try {
    const first = resume ? loadCheckpoint(path('checkpoint'), session) : 0;
    ensureDirectory(out);
    writeFileAtomic(path('config'), `${JSON.stringify(config, null, 1)}\n`);
    writeFileAtomic(path('net'), `${JSON.stringify(netConfigOf(config, data.classes), null, 1)}\n`);
    writeFileAtomic(path('log'), resume ? keptLog(path('log'), first) : '');
    return await loop(session, first, path, hooks);
  } finally {
    session.dispose();
  }
}

/** The lines up to an update: what was done after the checkpoint is done again. */
function keptLog(path: string, step: number): string {
  if (!existsSync(path)) return '';
  const lines = readFileSync(path, 'utf8').split('\n');
  return lines
    .filter((line) => line !== '' && isUpTo(line, step))
    .map((line) => `${line}\n`)
    .join('');
}

function isUpTo(line: string, step: number): boolean {
  try {
    return (JSON.parse(line) as LogEntry).step <= step;
  } catch {
    return false; // the last line of a run that was killed
  }
}

async function loop(
  session: Session,
  first: number,
  path: (name: keyof typeof files) => string,
  hooks: TrainHooks,
): Promise<TrainResult> {
  const { config, step, recipe, device } = session;
  const { steps, log_every, checkpoint_every, sample_every } = config;
  await step.program.prepare(hooks.onCompile);
  const started = performance.now();
  let loss = Number.NaN;
  let finished = first;
  let saved = first;
  const seconds = () => (performance.now() - started) / 1000;
  // Saving and looking are no part of the speed.
  let aside = 0;
  const images = config.batch * config.accumulate;
  const rate = () => ((finished - first) * images) / Math.max(1e-9, seconds() - aside);
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
    const entries: LogEntry[] = [];
    for (let t = from; t < to; t++) {
      const [value, norm] = values.subarray(2 * (t - from)) as unknown as [number, number];
      if (!Number.isFinite(value) || !Number.isFinite(norm)) {
        append(path('log'), entries);
        const why = await step.diagnose(t);
        throw new CmapError(
          `train: update ${t + 1}: the loss is ${value}, the gradient's norm ${norm}: ${why}; ${wayOn(saved, path('checkpoint'))}`,
        );
      }
      const lr = learningRate(config, t);
      entries.push({ step: t + 1, loss: value, norm, lr, ...recipe.describe?.(t) });
      loss = value;
    }
    append(path('log'), entries);
    hooks.onLog?.(entries, rate());
  };

  const save = async (done: number) => {
    try {
      await saveCheckpoint(path('checkpoint'), session, done);
    } catch (error) {
      if (!(error instanceof NotFiniteError)) throw error;
      throw new CmapError(`train: ${error.message}; ${wayOn(saved, path('checkpoint'))}`);
    }
    saved = done;
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
  while (t < steps && !hooks.signal?.aborted) {
    step.run(t++);
    const done = device.sync().then(() => hooks.onStep?.(++finished, steps));
    done.catch(() => {});
    inFlight.push(done);
    if (inFlight.length >= 3) await inFlight.shift();
    if ((t - first) % log_every === 0) {
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
      const { onLook } = hooks;
      if (onLook) await setAside(async () => onLook(t, await session.look(last)));
    }
  }
  await settle(t);
  const interrupted = t < steps;
  if (interrupted) await save(t);
  else await saveResult(path('result'), session, t);
  return { steps: t, interrupted, loss, seconds: seconds(), imagesPerSecond: rate() };
}

/** After an update that is no number. @param saved updates in the last checkpoint; 0 is none */
const wayOn = (saved: number, path: string) =>
  saved === 0
    ? 'no checkpoint was written yet; begin anew with a lower lr, or clip=1'
    : `${path} is of update ${saved}; --resume with a lower lr=, or clip=1, may go on from it`;

function append(path: string, entries: readonly LogEntry[]): void {
  appendFileSync(path, entries.map((entry) => `${JSON.stringify(entry)}\n`).join(''));
}
