/** Per-dispatch times from timestamp queries: which kernel, on which grid, for how long, at what rate. */
import { waitFor } from './wait.ts';

export interface KernelTime {
  readonly name: string;
  readonly grid: readonly [number, number, number];
  readonly microseconds: number;
  /** Floating-point operations of the dispatch where the operation states them, else 0. */
  readonly flops: number;
}

export interface ProfileRow {
  name: string;
  grid: string;
  calls: number;
  microseconds: number;
  gflops: number;
}

const capacity = 512;

/**
 * Nanoseconds that each pass adds to those before it. A GPU writes a pass's first timestamp when its front end comes by,
 * which may be while the pass before still runs: from there to its last, most of the pass before would be counted again.
 * @param stamps begin and end of each pass, in the order of the queue
 * @param before end of the last pass before these, 0n if there is none
 */
export function durationsOf(stamps: BigUint64Array, before: bigint): { nanoseconds: number[]; end: bigint } {
  const nanoseconds: number[] = [];
  let end = before;
  for (let i = 0; i < stamps.length; i += 2) {
    const from = (stamps[i] as bigint) > end ? (stamps[i] as bigint) : end;
    if ((stamps[i + 1] as bigint) > end) end = stamps[i + 1] as bigint;
    nanoseconds.push(Number(end - from));
  }
  return { nanoseconds, end };
}

/** Collects times while installed on a device; `times()` waits for all of them. */
export class Profiler {
  readonly #device: GPUDevice;
  readonly #pending: Promise<void>[] = [];
  readonly #times: KernelTime[] = [];
  #queries: GPUQuerySet | null = null;
  #labels: Omit<KernelTime, 'microseconds'>[] = [];
  /** Timestamp at which the last pass read so far ended. */
  #end = 0n;

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  get full(): boolean {
    return this.#labels.length === capacity;
  }

  /** The timestamp writes of the next dispatch's own pass. */
  next(name: string, grid: readonly [number, number, number], flops: number): GPUComputePassTimestampWrites {
    this.#queries ??= this.#device.createQuerySet({ type: 'timestamp', count: 2 * capacity });
    const i = this.#labels.push({ name, grid, flops }) - 1;
    return { querySet: this.#queries, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 };
  }

  /** Called with the encoder just before it is submitted; the result is read after. Returns what to do after submit. */
  resolve(encoder: GPUCommandEncoder): () => void {
    const queries = this.#queries;
    const labels = this.#labels;
    if (!queries || labels.length === 0) return () => {};
    this.#queries = null;
    this.#labels = [];
    const bytes = 16 * labels.length;
    const usage = { resolve: 0x200 | 0x4, read: 0x8 | 0x1 }; // QUERY_RESOLVE | COPY_SRC, COPY_DST | MAP_READ
    const resolved = this.#device.createBuffer({ size: bytes, usage: usage.resolve });
    const staging = this.#device.createBuffer({ size: bytes, usage: usage.read });
    encoder.resolveQuerySet(queries, 0, 2 * labels.length, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, staging, 0, bytes);
    return () => {
      this.#pending.push(
        staging.mapAsync(1).then(() => {
          const { nanoseconds, end } = durationsOf(new BigUint64Array(staging.getMappedRange()), this.#end);
          this.#end = end;
          labels.forEach((label, i) => {
            this.#times.push({ ...label, microseconds: (nanoseconds[i] as number) / 1000 });
          });
          staging.unmap();
          staging.destroy();
          resolved.destroy();
          queries.destroy();
        }),
      );
    };
  }

  async times(): Promise<readonly KernelTime[]> {
    await waitFor(Promise.all(this.#pending));
    return this.#times;
  }

  /** Times summed by kernel and grid, longest first. */
  async table(): Promise<ProfileRow[]> {
    const rows = new Map<string, ProfileRow & { flops: number }>();
    for (const { name, grid, microseconds, flops } of await this.times()) {
      const key = `${name} ${grid}`;
      const row = rows.get(key) ?? {
        name,
        grid: grid.join('×'),
        calls: 0,
        microseconds: 0,
        gflops: 0,
        flops: 0,
      };
      row.calls++;
      row.microseconds += microseconds;
      row.flops += flops;
      row.gflops = row.flops / (row.microseconds * 1e3);
      rows.set(key, row);
    }
    return [...rows.values()].sort((a, b) => b.microseconds - a.microseconds);
  }
}
