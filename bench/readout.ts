/**
 * `npm run bench -- --readout DIR`: every read-out of this adapter, unattended. Each part is a process of its own, so that what
 * fails or takes too long costs only itself, in order of importance, and the table says what became of each.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Device } from '../src/engine/device.ts';
import { packageRoot } from '../src/formats/package-root.ts';
import { ensureDirectory, writeFileAtomic } from '../src/report/files.ts';
import { positive, refuseFlags, take } from './measure.ts';

export interface Part {
  readonly title: string;
  /** Of the bench, or of `cmap` where `command` is. */
  readonly args: readonly string[];
  readonly command?: 'cmap';
  readonly env?: Readonly<Record<string, string>>;
  /** What it writes, and goes into the table. */
  readonly json?: string;
  /** Most of the seconds that are left that it may take, 0 to 1. */
  readonly share: number;
}

/** What became of a process, and what it said. */
export interface Outcome {
  /** Its code, or the signal that ended it; 'stopped' when its time was up. */
  readonly end: number | string;
  readonly output: string;
  readonly errors: string;
}

/**
 * The parts, the most important first.
 * @param base path that the names of files begin with
 * @param software whether the adapter is a software driver, which peers with threads of their own would disturb
 */
export function partsOf(base: string, software: boolean): Part[] {
  const web = ['--only', 'tfjs,jax-js'];
  const native = ['--only', 'torch,ort-web wasm'];
  const [first, second] = software
    ? [web, native]
    : [
        ['--only', 'torch'],
        ['--only', 'tfjs,jax-js,ort-web wasm'],
      ];
  const kernels = (name: string, peers: readonly string[]) => [
    '--seconds',
    '1',
    '--json',
    `${base}${name}.json`,
    ...peers,
  ];
  const net = (name: string, only: string) => ['--net', '--only', only, '--json', `${base}-${name}.json`];
  return [
    {
      title: 'kernels',
      args: [...kernels('', ['--peers', ...first]), '--svg', `${base}.svg`],
      json: `${base}.json`,
      share: 0.4,
    },
    { title: 'networks', args: net('net', 'Fashion,CIFAR'), json: `${base}-net.json`, share: 0.5 },
    ...(software
      ? []
      : [
          {
            title: 'kernels, f16',
            args: kernels('-f16', []),
            env: { CMAP_PRECISION: 'f16' },
            json: `${base}-f16.json`,
            share: 0.3,
          },
          {
            title: 'networks, f16',
            args: net('net-f16', 'CIFAR'),
            env: { CMAP_PRECISION: 'f16' },
            json: `${base}-net-f16.json`,
            share: 0.3,
          },
        ]),
    {
      title: 'tuning',
      command: 'cmap',
      args: ['tune', '--quiet', '--out', `${base}-tuning.json`],
      share: 0.4,
    },
    {
      title: 'kernels, other peers',
      args: kernels('-peers', ['--peers', ...second]),
      json: `${base}-peers.json`,
      share: 0.5,
    },
    { title: 'growth', args: net('growth', 'growth'), json: `${base}-growth.json`, share: 0.6 },
    {
      title: 'memory',
      args: ['--memory', '--run', software ? '1.6' : '8', '--json', `${base}-memory.json`],
      share: 1,
    },
  ];
}

/**
 * Runs the parts one after another within `budget` seconds.
 * @param start runs one for at most so many seconds
 * @param now seconds of a clock
 * @returns a row of the table a part
 */
export async function runParts(
  parts: readonly Part[],
  budget: number,
  start: (part: Part, seconds: number) => Promise<Outcome>,
  now = () => performance.now() / 1000,
): Promise<{ readonly part: Part; readonly result: string; readonly output: string }[]> {
  const rows = [];
  const end = now() + budget;
  for (const part of parts) {
    const began = now();
    const seconds = Math.max(0, end - began) * part.share;
    if (seconds < 1) {
      rows.push({ part, result: 'left out: no time left', output: '' });
      continue;
    }
    const { end: ended, output, errors } = await start(part, seconds);
    const took = `${(now() - began).toFixed(0)} s`;
    const failed = `failed after ${took}: ${typeof ended === 'string' ? ended : reasonOf(errors)}`;
    rows.push({
      part,
      result: ended === 0 ? took : ended === 'stopped' ? `stopped after ${took}` : failed,
      output,
    });
  }
  return rows;
}

/** The line of a process's errors that says what happened. */
function reasonOf(errors: string): string {
  const lines = errors.split('\n').filter((line) => line.trim());
  return (lines.find((line) => /^\w*Error\b/.test(line)) ?? lines.at(-1) ?? 'it said nothing').replaceAll(
    '|',
    '/',
  );
}

/** @param seconds after which it is stopped */
function startPart(
  { command, args, env }: Pick<Part, 'command' | 'args' | 'env'>,
  seconds: number,
): Promise<Outcome> {
  const main = command === 'cmap' ? join(packageRoot(), 'dist', 'cli.js') : (process.argv[1] as string);
  const child = spawn(process.execPath, [main, ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stopped = false;
  const stop = () => {
    stopped = true;
    child.kill();
  };
  // A timer may wait for 2^31 - 1 milliseconds.
  const timer = setTimeout(stop, Math.min(1000 * seconds, 2 ** 31 - 1));
  let [output, errors] = ['', ''];
  child.stdout.on('data', (text) => {
    output += text;
  });
  child.stderr.on('data', (text) => {
    errors += text;
    process.stderr.write(text);
  });
  return new Promise((resolve) => {
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      resolve({ end: stopped ? 'stopped' : (code ?? String(signal)), output, errors });
    });
  });
}

export async function readout(words: readonly string[]): Promise<void> {
  const rest = [...words];
  const folder = take(rest, '--readout') as string;
  const seconds = take(rest, '--budget');
  const budget = seconds === undefined ? Number.POSITIVE_INFINITY : positive('--budget', seconds, 0);
  refuseFlags(rest, false);
  ensureDirectory(folder);
  const device = await Device.open();
  const { name, driver } = device.adapter;
  const software = device.capabilities.cpu;
  device.close();
  const date = new Date().toISOString().slice(0, 10);
  const slug = name
    .toLowerCase()
    .replace(/[^a-z0-9.]+/g, '-')
    .replace(/^-|-$/g, '');
  const base = join(folder, `${date}-${slug}`);
  const rows = await runParts(partsOf(base, software), budget, (part, seconds) => {
    console.error(`${part.title}:`);
    return startPart(part, seconds);
  });
  const tables = [];
  for (const { part, output } of rows) {
    const table =
      part.json && existsSync(part.json)
        ? (await startPart({ args: ['--table', part.json] }, 60)).output
        : '';
    const text = part.json ? table : output && `\`\`\`\n${output.trim()}\n\`\`\``;
    if (text) tables.push(`## ${part.title}\n\n${text.trim()}`);
  }
  writeFileAtomic(
    `${base}.md`,
    `${[`# ${name}, ${driver || 'driver not stated'}, ${date}`, summary(rows), ...tables].join('\n\n')}\n`,
  );
  for (const { part, result } of rows) console.log(`${part.title}: ${result}`);
  console.log(`${base}.md`);
}

/** What was run, and what became of it. */
function summary(rows: Awaited<ReturnType<typeof runParts>>): string {
  const lines = rows.map(({ part: { title, args, command, env = {} }, result }) => {
    const words = [
      ...Object.entries(env).map((pair) => pair.join('=')),
      command ?? 'npm run bench --',
      ...args,
    ];
    return `| ${title} | \`${words.join(' ')}\` | ${result} |`;
  });
  return ['| part | command | time |', '| --- | --- | --- |', ...lines].join('\n');
}
