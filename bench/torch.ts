/** PyTorch as a peer, in a process of its own: whatever `python3` has torch. Times are taken inside that process. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Runner, Sample } from './measure.ts';
import type { PeerCase, Prepared } from './peers.ts';

type Answer = Record<string, unknown>;

export interface TorchMode {
  readonly name: string;
  readonly about: string;
  /** Whether it means something for a single operation. */
  readonly kernels: boolean;
}

export class Torch {
  readonly #folder = mkdtempSync(join(tmpdir(), 'cmap-bench-'));
  readonly #lines: AsyncIterator<string>;
  #queue: Promise<unknown> = Promise.resolve();

  private constructor(
    readonly process: ChildProcess,
    lines: AsyncIterator<string>,
  ) {
    this.#lines = lines;
  }

  version = '';
  /** The ways in which it can repeat a case: numbers of threads, or TF32, layout and compiler on CUDA. */
  modes: readonly TorchMode[] = [];

  /** Tries `python3` of the path, then the system's. @throws Error when neither has torch */
  static async open(script: string): Promise<Torch> {
    let problem = 'there is no python3';
    for (const python of ['python3', '/usr/bin/python3']) {
      const child = spawn(python, [script], { stdio: ['pipe', 'pipe', 'pipe'] });
      let errors = '';
      child.stderr?.on('data', (text) => {
        errors += text;
      });
      child.on('error', () => {});
      const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
      const first = await lines.next();
      if (!first.done) {
        const torch = new Torch(child, lines);
        const { version, modes } = JSON.parse(first.value);
        torch.version = `PyTorch ${version}`;
        torch.modes = modes;
        return torch;
      }
      problem = errors.trim().split('\n').at(-1) || problem;
    }
    throw new Error(problem);
  }

  /** One request at a time. @throws Error with the other side's message */
  async ask(request: object): Promise<Answer> {
    const turn = this.#queue.then(async () => {
      this.process.stdin?.write(`${JSON.stringify(request)}\n`);
      const { value, done } = await this.#lines.next();
      if (done) throw new Error('the PyTorch process has ended');
      const answer = JSON.parse(value) as Answer;
      if (answer.error) throw new Error(String(answer.error));
      return answer;
    });
    this.#queue = turn.catch(() => {});
    return turn;
  }

  /** Its modes, as runners of what `request` prepares. @throws Error with the other side's message */
  async runners(request: object): Promise<Runner[]> {
    await this.ask(request);
    return this.modes.map(({ name }) => ({ name, once: () => this.time(name) }));
  }

  /** A repetition in one of its modes. */
  async time(mode: string, forward = false): Promise<Sample> {
    return (await this.ask({ mode, forward })) as unknown as Sample;
  }

  /** The case's outputs; `time` then repeats it. */
  async prepare(c: PeerCase): Promise<Float32Array[]> {
    const file = join(this.#folder, 'case');
    const inputs = Object.entries(c.inputs);
    writeFileSync(
      file,
      Buffer.concat(inputs.map(([, { data }]) => Buffer.from(data.buffer, data.byteOffset, data.byteLength))),
    );
    const shapes = Object.fromEntries(inputs.map(([name, { shape }]) => [name, shape]));
    const { results, counts } = await this.ask({ prepare: { ...c, inputs: shapes }, file });
    const bytes = readFileSync(String(results));
    const all = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
    let at = 0;
    return (counts as number[]).map((n) => {
      at += n;
      return all.slice(at - n, at);
    });
  }

  close(): void {
    this.process.stdin?.end();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** The reference's arguments of an NCSN++: ours, but for what only training uses. */
export function referenceConfig(config: object): object {
  const { augment_dim: _, ...known } = { dropout: 0, fourier_scale: 16, augment_dim: 0, ...config };
  return known;
}

/** PyTorch in each of its modes, as peers that share the process. */
export function torchPeers(torch: Torch) {
  let latest: { readonly case: PeerCase; readonly outputs: Promise<Float32Array[]> } | null = null;
  return torch.modes
    .filter((mode) => mode.kernels)
    .map(({ name, about }) => ({
      name,
      close: async () => torch.close(),
      about: `${torch.version}, ${about}`,
      async prepare(c: PeerCase): Promise<Prepared> {
        if (latest?.case !== c) latest = { case: c, outputs: torch.prepare(c) };
        const { outputs } = latest;
        await outputs;
        return {
          once: () => torch.time(name, c.pass === 'forward'),
          result: () => outputs,
          dispose: () => {},
        };
      },
    }));
}
