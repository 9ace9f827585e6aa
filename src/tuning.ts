/**
 * Where tuned choices are kept: a JSON file an adapter, driver and version of the kernels, in $CMAP_TUNING, else
 * $XDG_CACHE_HOME/cmap/tuning, else ~/.cache/cmap/tuning. For the adapters that the project has met, tables come with it, in
 * weights/tuning.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Device } from './engine/device.ts';
import { InputError } from './engine/errors.ts';
import { Tuning } from './engine/tuning.ts';
import { packageRoot, userCache } from './formats/package-root.ts';
import { readJson } from './formats/read.ts';
import { kernelsVersion, type Tuned } from './kernels/tune.ts';
import { writeFileAtomic } from './report/files.ts';

interface TuningFile {
  readonly adapter: string;
  readonly driver: string;
  readonly profile: string;
  readonly precision: string;
  readonly kernels: string;
  readonly date: string;
  /** Variant by problem. */
  readonly choices: Readonly<Record<string, string>>;
  /** Milliseconds by variant, by problem: what the choices rest on. */
  readonly measured: Readonly<Record<string, Readonly<Record<string, number | null>>>>;
}

/** Name of the file of this adapter and driver. */
function fileName({ adapter }: Device): string {
  const words =
    `${adapter.name} ${adapter.driver} ${adapter.profile}${adapter.precision === 'f16' ? ' f16' : ''}`.toLowerCase();
  return `${words.replace(/[^a-z0-9.]+/g, '-').replace(/^-|-$/g, '')}.json`;
}

export function tuningPath(device: Device): string {
  return join(process.env.CMAP_TUNING || join(userCache(), 'tuning'), fileName(device));
}

/** The table of this adapter that comes with the project, if there is one. */
function shippedTuningPath(device: Device): string {
  return join(packageRoot(), 'weights', 'tuning', fileName(device));
}

/**
 * Loads the choices that come with the project for this adapter into `device.tuning`, and over them those measured on this
 * machine. A file for another version of the kernels is passed over.
 * @returns where they came from and how many there are, or null
 */
export function loadTuning(device: Device): { path: string; choices: number } | null {
  const paths = [tuningPath(device), shippedTuningPath(device)];
  const [own, shipped] = paths.map(choicesAt);
  if (!own && !shipped) return null;
  const all = new Map([...(shipped ?? []), ...(own ?? [])]);
  device.tuning = new Tuning(all);
  return { path: paths.filter((_, i) => [own, shipped][i]).join(' and '), choices: all.size };
}

function choicesAt(path: string): Map<string, string> | null {
  if (!existsSync(path)) return null;
  const file = readJson(path) as Partial<TuningFile> | null;
  if (file?.kernels !== kernelsVersion() || typeof file.choices !== 'object' || file.choices === null)
    return null;
  return new Map(
    Object.entries(file.choices).filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
  );
}

/** Adds results to the file at `path`, or begins it anew where it is of another adapter or version. @throws InputError */
export function saveTuning(device: Device, results: readonly Tuned[], path = tuningPath(device)): void {
  const { name, driver, profile, precision } = device.adapter;
  const head = { adapter: name, driver, profile, precision, kernels: kernelsVersion() };
  let known: Partial<TuningFile> = {};
  if (existsSync(path)) {
    const found = readJson(path) as Partial<TuningFile> | null;
    if (typeof found !== 'object' || found === null)
      throw new InputError(`${path}: not a table of tuned kernels; move it away`);
    const same = Object.entries(head).every(([key, value]) => found[key as keyof typeof head] === value);
    if (same) known = found;
  }
  const choices: Record<string, string> = { ...known.choices };
  const below = shippedTuningPath(device);
  const shipped = path === below ? null : choicesAt(below);
  const measured = { ...known.measured } as Record<string, Tuned['milliseconds']>;
  for (const { problem, choice, milliseconds } of results) {
    const key = Tuning.keyOf(problem);
    // Where the shipped table chooses otherwise, it is said.
    if (choice === 'static' && !shipped?.has(key)) delete choices[key];
    else choices[key] = choice;
    measured[key] = Object.fromEntries(
      Object.entries(milliseconds).map(([variant, ms]) => [
        variant,
        ms === null ? null : Number(ms.toPrecision(3)),
      ]),
    );
  }
  const date = new Date().toISOString().slice(0, 10);
  const file: TuningFile = { ...head, date, choices, measured };
  writeFileAtomic(path, `${JSON.stringify(file, null, 1)}\n`);
}
