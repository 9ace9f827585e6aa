/**
 * `npm run bench -- --code`: the machine code that a GPU would run, without one. Mesa's RADV compiles every kernel of the chosen
 * cases for an AMD GPU that is not there (`radv-null.c`), and says how many registers it takes; of the loop with the most
 * multiply-adds we count what else is in it. What it cannot tell is time.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openCompiler } from '../src/engine/adapter.node.ts';
import { Device } from '../src/engine/device.ts';
import { InputError } from '../src/engine/errors.ts';
import { type Kernel, knownKernels } from '../src/engine/kernel.ts';
import { cacheFolder } from '../src/engine/swiftshader.ts';
import { writeFileAtomic } from '../src/report/files.ts';
import { formatTable } from '../src/report/table.ts';
import { type Case, chooseCases, differentiated } from './cases.ts';
import { percent, refuseFlags, take, takeOutput, wordsAfter } from './measure.ts';

/** Instructions by kind; those that only wait for results of arithmetic are not counted. */
export interface Instructions {
  readonly all: number;
  /** Of 32 bits on vectors, and of matrices. */
  readonly multiplyAdds: number;
  readonly matrices: number;
  /** Other arithmetic on vectors. */
  readonly vector: number;
  /** Arithmetic that a subgroup does once. */
  readonly scalar: number;
  /** Of buffers. */
  readonly loads: number;
  readonly stores: number;
  /** Reads and writes of workgroup memory. */
  readonly shared: number;
  readonly barriers: number;
  /** Waits for all loads that are under way. */
  readonly waits: number;
}

export interface Code {
  readonly kernel: string;
  /** Registers of an invocation. */
  readonly registers: number;
  /** Registers that did not fit. */
  readonly spilled: number;
  /** Bytes. */
  readonly workgroupMemory: number;
  /** That a SIMD unit holds at once, of 16 or 32. */
  readonly subgroups: number;
  /** Bytes. */
  readonly size: number;
  /** The loop with the most multiply-adds, once; null where there is none. */
  readonly loop: Instructions | null;
  readonly text: string;
}

const kinds: readonly [keyof Omit<Instructions, 'all' | 'waits'>, RegExp][] = [
  ['matrices', /^v_wmma/],
  ['multiplyAdds', /^v_(pk_|dual_)?(fma|mac|mad|fmac)(ak|mk)?(_legacy)?_f32/],
  ['loads', /^(buffer|global)_load/],
  ['stores', /^(buffer|global)_store/],
  ['shared', /^ds_/],
  ['barriers', /^s_barrier/],
  ['scalar', /^s_/],
  ['vector', /^v_/],
];

function count(lines: readonly string[]): Instructions {
  const found = {
    all: 0,
    multiplyAdds: 0,
    matrices: 0,
    vector: 0,
    scalar: 0,
    loads: 0,
    stores: 0,
    shared: 0,
    barriers: 0,
    waits: 0,
  };
  for (const line of lines) {
    if (/^s_(delay_alu|nop|waitcnt)/.test(line)) {
      if (/^s_waitcnt .*vmcnt\(0\)/.test(line)) found.waits++;
      continue;
    }
    found.all++;
    const kind = kinds.find(([, pattern]) => pattern.test(line));
    if (kind) found[kind[0]]++;
  }
  return found;
}

/** The instructions of the loop with the most multiply-adds: from a block to a branch back to it. */
export function heaviestLoop(text: string): Instructions | null {
  const lines: string[] = [];
  const blocks = new Map<string, number>();
  for (const raw of text.split('\n')) {
    const line = raw.split(';')[0]?.trim() ?? '';
    const label = /^(BB\d+):/.exec(line)?.[1];
    if (label) blocks.set(label, lines.length);
    else if (line) lines.push(line);
  }
  let best: Instructions | null = null;
  const weight = (i: Instructions) => i.multiplyAdds + 1000 * i.matrices;
  lines.forEach((line, end) => {
    const start = blocks.get(/^s_c?branch\S*\s+(BB\d+)/.exec(line)?.[1] ?? '');
    if (start === undefined || start > end) return;
    const loop = count(lines.slice(start, end + 1));
    if (!best || weight(loop) > weight(best)) best = loop;
  });
  return best;
}

/** What `radv-null.c` wrote, each kernel's after a line `@ kernel NAME`. */
export function parseCode(report: string): Code[] {
  return report
    .split('@ kernel ')
    .slice(1)
    .map((part) => {
      const statistic = (name: string) => {
        const value = new RegExp(`^@ statistic ${name} = (\\d+)$`, 'm').exec(part)?.[1];
        if (value === undefined) throw new Error(`this Mesa does not tell ${name} of a pipeline`);
        return Number(value);
      };
      const text = part.slice(part.indexOf('@ code\n') + 7).trimEnd();
      return {
        kernel: part.slice(0, part.indexOf('\n')),
        registers: statistic('VGPRs'),
        spilled: statistic('Spilled VGPRs') + statistic('Spilled SGPRs'),
        workgroupMemory: statistic('LDS size'),
        subgroups: statistic('Subgroups per SIMD'),
        size: statistic('Code size'),
        loop: heaviestLoop(text),
        text,
      };
    });
}

/** The library of `radv-null.c`, built where it is not yet. @throws InputError without a C compiler or Vulkan's headers */
function library(): string {
  const source = readFileSync('bench/radv-null.c');
  const path = join(
    cacheFolder(),
    `radv-null-${createHash('sha256').update(source).digest('hex').slice(0, 12)}.so`,
  );
  if (existsSync(path)) return path;
  try {
    execFileSync('cc', ['-shared', '-fPIC', '-O1', '-o', `${path}.new`, 'bench/radv-null.c', '-ldl'], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
  } catch (error) {
    const why =
      String((error as { stderr?: unknown }).stderr ?? error)
        .split('\n')
        .find((line) => /error/i.test(line)) ?? String(error);
    throw new InputError(
      `--code needs a C compiler and Vulkan's headers (Debian: apt install gcc libvulkan-dev): ${why.trim()}`,
    );
  }
  renameSync(`${path}.new`, path);
  return path;
}

/** A device that compiles for a GPU of `family`, such as navi31; one a process. */
export class Compiler {
  private constructor(
    readonly device: Device,
    readonly folder: string,
    readonly report: string,
  ) {}

  static async open(family: string): Promise<Compiler> {
    const library_path = library();
    const folder = mkdtempSync(join(tmpdir(), 'cmap-code-'));
    const report = join(folder, 'report.txt');
    const manifest = join(folder, 'radv.json');
    const ICD = { library_path, api_version: '1.3.0' };
    writeFileSync(manifest, JSON.stringify({ file_format_version: '1.0.0', ICD }));
    process.env.RADV_FORCE_FAMILY = family;
    process.env.CODE_OUT = report;
    process.env.MESA_SHADER_CACHE_DISABLE = 'true'; // what is found there has no text
    try {
      return new Compiler(await Device.on(await openCompiler(manifest)), folder, report);
    } catch (error) {
      rmSync(folder, { recursive: true, force: true });
      throw new InputError(
        `--code needs Mesa's RADV, which must know '${family}' (Debian: apt install mesa-vulkan-drivers): ${(error as Error).message}`,
      );
    }
  }

  /** The code of all kernels that `f` runs which were not made before. */
  async codeOf(f: () => unknown): Promise<Code[]> {
    const before = new Set<Kernel>(knownKernels());
    this.device.cost(f);
    writeFileSync(this.report, '');
    for (const kernel of knownKernels()) {
      if (before.has(kernel)) continue;
      appendFileSync(this.report, `@ kernel ${kernel.name}\n`);
      await this.device.pipelines.warm([kernel]);
    }
    return parseCode(readFileSync(this.report, 'utf8'));
  }

  /** The device is left as it is, as RADV's null device cannot be destroyed; so end the process. */
  close(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** A case's forward pass, or that and its gradient, on inputs that nobody wrote. */
function passOf(device: Device, c: Case): () => unknown {
  const { dy, ...inputs } = Object.fromEntries(
    Object.entries(c.inputs).map(([name, shape]) => [name, device.empty(shape)]),
  );
  return () => (dy ? differentiated(c, inputs).pullback(dy) : c.run(inputs));
}

/** The name, and of its constants the edge of the tile. */
const brief = (kernel: string) => {
  const tile = /\bTILE=(\d+) .*\bKT=/.exec(kernel)?.[1];
  return kernel.replace(/\[.*/, '') + (tile ? ` ${tile}` : '');
};

const columns: readonly [string, (c: Code) => string][] = [
  ['kernel', (c) => brief(c.kernel)],
  ['registers', (c) => String(c.registers)],
  ['spilled', (c) => String(c.spilled)],
  ['workgroup KB', (c) => (c.workgroupMemory / 1024).toFixed(1)],
  ['subgroups', (c) => String(c.subgroups)],
  ['code KB', (c) => (c.size / 1024).toFixed(1)],
  ...(
    [
      ['loop', 'all'],
      ['multiply-adds', 'multiplyAdds'],
      ['of matrices', 'matrices'],
      ['other vector', 'vector'],
      ['scalar', 'scalar'],
      ['loads', 'loads'],
      ['workgroup', 'shared'],
      ['full waits', 'waits'],
      ['barriers', 'barriers'],
    ] as const
  ).map(([title, kind]): [string, (c: Code) => string] => [
    title,
    (c) => (c.loop ? String(c.loop[kind]) : ''),
  ]),
  ['share', ({ loop }) => (loop && loop.multiplyAdds > 0 ? percent(loop.multiplyAdds / loop.all) : '')],
];

/** The command line: words as the bench's, `--family NAME`, `--json FILE`, `--text FILE`. */
export async function code(): Promise<void> {
  const words = wordsAfter('--code');
  const family = take(words, '--family') ?? 'navi31';
  const json = takeOutput(words, '--json');
  const text = takeOutput(words, '--text');
  refuseFlags(words);
  const chosen = chooseCases(words, true);
  if (chosen.length === 0) throw new InputError(`--code: no case contains ${words.join(' ')}`);
  const compiler = await Compiler.open(family);
  const { description } = compiler.device.adapter;
  const rows: (Code & { readonly case: string })[] = [];
  for (const c of chosen) {
    const found = await compiler.codeOf(passOf(compiler.device, c));
    rows.push(...found.map((row) => ({ ...row, case: `${c.kernel} ${c.pass} ${c.shape}` })));
  }
  compiler.close();
  console.log(`${family}, ${description}; each kernel with the first case that needs it\n`);
  const titles = ['case', ...columns.map(([title]) => title)];
  console.log(
    formatTable(
      titles,
      rows.map((row) => [row.case, ...columns.map(([, cell]) => cell(row))]),
    ),
  );
  if (json)
    writeFileAtomic(
      json,
      `${JSON.stringify(
        rows.map(({ text, ...row }) => row),
        null,
        1,
      )}\n`,
    );
  if (text) writeFileAtomic(text, rows.map((row) => `${row.case}: ${row.kernel}\n${row.text}\n`).join('\n'));
  process.exit(0);
}
