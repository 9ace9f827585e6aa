/** PyTorch as a peer, in a process of its own: whatever `python3` has torch. Times are taken inside that process. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Sample } from './measure.ts';
import type { PeerCase, Prepared } from './peers.ts';

type Answer = Record<string, unknown>;

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
  /** All the cores that it may use. */
  threads = 1;

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
        const { version, threads, cuda } = JSON.parse(first.value);
        torch.version = `PyTorch ${version}${cuda ? ', CUDA' : ''}`;
        torch.threads = cuda ? 1 : threads;
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

  /** A repetition on the given number of threads. */
  async time(threads: number, forward = false): Promise<Sample> {
    return (await this.ask({ threads, forward })) as unknown as Sample;
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

/** PyTorch on 1 and on all threads, as two peers that share the process. */
export function torchPeers(torch: Torch) {
  const counts = [...new Set([1, torch.threads])];
  let latest: { readonly case: PeerCase; readonly outputs: Promise<Float32Array[]> } | null = null;
  return counts.map((threads) => ({
    name: `torch x${threads}`,
    close: async () => torch.close(),
    about: `${torch.version}, ${threads} thread${threads > 1 ? 's' : ''}`,
    async prepare(c: PeerCase): Promise<Prepared> {
      if (latest?.case !== c) latest = { case: c, outputs: torch.prepare(c) };
      const { outputs } = latest;
      await outputs;
      return {
        once: () => torch.time(threads, c.pass === 'forward'),
        result: () => outputs,
        dispose: () => {},
      };
    },
  }));
}
