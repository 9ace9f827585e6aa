/** Options that several commands share, and the parsing of their values. */
import { existsSync, realpathSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { type Command, InvalidArgumentError } from 'commander';
import { rational } from '../attacks/spec.ts';
import { type CmapOptions, checkCmapOptions, paperCifar10 } from '../cmap/options.ts';
import { Device } from '../engine/device.ts';
import { InputError } from '../engine/errors.ts';
import { loadTuning } from '../tuning.ts';

/** "8/255" or "0.03" -> a number. */
export function parseNumber(text: string): number {
  const value = rational(text);
  if (Number.isNaN(value)) throw new InvalidArgumentError(`"${text}" is not a number such as 0.03 or 8/255.`);
  return value;
}

/** `netConfig` as it stands on the command line, `--net-config`. */
export const flagOf = (name: string) => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;

export function parseInteger(text: string): number {
  const value = Number(text);
  if (!/^\s*[+-]?\d+(e\d+)?\s*$/i.test(text)) throw new InvalidArgumentError(`"${text}" is not an integer.`);
  if (!Number.isSafeInteger(value))
    throw new InvalidArgumentError(`"${text}" is beyond ±${Number.MAX_SAFE_INTEGER}.`);
  return value;
}

/**
 * Files by their flags, those that are given.
 * @throws InputError where one that is to be written is one that is read, or two are the same
 */
export function checkDistinct(
  read: Readonly<Record<string, string | undefined>>,
  written: Readonly<Record<string, string | undefined>>,
): void {
  const real = (path: string) => (existsSync(path) ? realpathSync(path) : resolve(path));
  const seen = new Map<string, string>();
  for (const [flag, path] of Object.entries(read)) if (path !== undefined) seen.set(real(path), flag);
  for (const [flag, path] of Object.entries(written)) {
    if (path === undefined || (existsSync(path) && !statSync(path).isFile())) continue;
    const other = seen.get(real(path));
    if (other !== undefined) throw new InputError(`${flag} ${path}: is the file of ${other}; choose another`);
    seen.set(real(path), flag);
  }
}

export interface CommonOptions {
  readonly adapter?: string;
  readonly quiet?: boolean;
  readonly profile?: boolean;
}

export function addCommonOptions(command: Command): Command {
  return command
    .option(
      '--adapter <name>',
      'hardware, lavapipe, swiftshader, or part of an adapter’s name (or CMAP_ADAPTER)',
    )
    .option('--profile', 'print the time of every kernel')
    .option('-q, --quiet', 'no progress');
}

export interface CmapFlags {
  readonly k: number;
  readonly iterations: number;
  readonly lr: number;
  readonly alpha: number;
  readonly lambda: number;
  readonly seed: number;
}

/** The flags as CMAP's options. @throws InputError for a value out of range */
export function cmapOptions({ k, iterations, lr, alpha, lambda, seed }: CmapFlags): CmapOptions {
  const options = { k, iterations, lr, alpha, lambda, seed, betas: paperCifar10.betas };
  checkCmapOptions(options);
  return options;
}

/** @param defaults shown in the help; without them an option that is not given stays undefined */
export function addCmapOptions(command: Command, defaults?: CmapOptions): Command {
  return command
    .option('--k <n>', 'latent vectors an image', parseInteger, defaults?.k)
    .option('--iterations <n>', 'Adam iterations', parseInteger, defaults?.iterations)
    .option('--lr <x>', 'step size on the latents', parseNumber, defaults?.lr)
    .option('--alpha <x>', 'weight of SSIM', parseNumber, defaults?.alpha)
    .option('--lambda <x>', 'weight of the latent constraint', parseNumber, defaults?.lambda)
    .option('--seed <n>', 'seed of the latents and of the attack', parseInteger, defaults?.seed);
}

/** Opens the device and says which. */
export async function openDevice(options: CommonOptions): Promise<Device> {
  const device = await Device.open({ adapter: options.adapter });
  if (device.adapter.kind === 'null') {
    device.close();
    throw new InputError(
      'adapter null: compiles kernels and computes nothing; take another (cmap doctor lists them)',
    );
  }
  const tuned = loadTuning(device);
  if (!options.quiet) {
    process.stderr.write(`adapter: ${device.adapter.name} (${device.adapter.reason})\n`);
    if (tuned) process.stderr.write(`adapter: ${tuned.choices} tuned kernel choices from ${tuned.path}\n`);
  }
  return device;
}

/** Runs `f`, with a table of kernel times after it when `--profile` asks for one. */
export async function maybeProfiled<T>(
  device: Device,
  options: CommonOptions,
  f: () => Promise<T>,
): Promise<T> {
  if (!options.profile) return f();
  let result: T | undefined;
  const profiler = await device.profile(async () => {
    result = await f();
  });
  const rows = await profiler.table();
  const total = rows.reduce((sum, row) => sum + row.microseconds, 0);
  process.stderr.write('   share       µs   calls  GFLOP/s  grid            kernel\n');
  for (const row of rows.slice(0, 40)) {
    process.stderr.write(
      [
        `${((100 * row.microseconds) / total).toFixed(1).padStart(6)} %`,
        row.microseconds.toFixed(0).padStart(8),
        String(row.calls).padStart(7),
        (row.gflops > 0 ? row.gflops.toFixed(2) : '').padStart(8),
        ` ${row.grid.padEnd(15)}`,
        row.name,
      ]
        .join(' ')
        .concat('\n'),
    );
  }
  return result as T;
}
