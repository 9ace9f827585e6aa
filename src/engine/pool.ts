import { formatBytes, OutOfMemoryError } from './errors.ts';

/**
 * Memory of one kind by size class. What is released is reused at once: the queue runs in order, so whatever still
 * reads it was recorded earlier. Nothing waits for the garbage collector, and Dawn gives memory back only on
 * `queue.submit`, so `trim` ends with an empty one.
 */
export class Pool<M extends GPUBuffer | GPUTexture> {
  readonly #free = new Map<number, M[]>();
  readonly #sizes = new Map<M, number>();
  /** What the device had no memory for: no command can use it, so it is not kept. */
  readonly #refused = new WeakSet<M>();
  /** Bytes handed out. */
  liveBytes = 0;
  /** Bytes waiting for reuse. */
  freeBytes = 0;
  peakBytes = 0;
  /** Buffers or textures created since the start; flat while a loop runs without leaks. */
  created = 0;

  constructor(
    readonly device: GPUDevice,
    /** Bytes of the largest. */
    readonly limit: number,
    readonly create: (size: number, label: string) => M,
    readonly onError: (error: Error) => void,
    /** Gives back what is kept for reuse, here and elsewhere. */
    readonly onFull: () => void,
  ) {}

  /** @param label what needs it, for the error message */
  acquire(bytes: number, label: string): M {
    if (bytes > this.limit) {
      throw new OutOfMemoryError(
        `${label}: needs ${formatBytes(bytes)} in one buffer, the adapter has ${formatBytes(this.limit)}; use a smaller batch or K`,
      );
    }
    const size = Math.min(sizeClass(bytes), this.limit);
    let memory = this.#free.get(size)?.pop();
    if (memory) this.freeBytes -= size;
    else memory = this.#create(size, label);
    this.liveBytes += size;
    return memory;
  }

  release(memory: M): void {
    const size = this.#sizes.get(memory) as number;
    this.liveBytes -= size;
    if (this.#refused.has(memory)) {
      this.#sizes.delete(memory);
      memory.destroy();
      return;
    }
    const list = this.#free.get(size);
    if (list) list.push(memory);
    else this.#free.set(size, [memory]);
    this.freeBytes += size;
  }

  trim(): void {
    for (const list of this.#free.values()) {
      for (const memory of list) {
        this.#sizes.delete(memory);
        memory.destroy();
      }
    }
    this.#free.clear();
    this.freeBytes = 0;
    this.device.queue.submit([]);
  }

  #create(size: number, label: string): M {
    this.created++;
    const guarded = size >= 4 << 20;
    if (guarded) this.device.pushErrorScope('out-of-memory');
    const memory = this.create(size, label);
    this.#sizes.set(memory, size);
    if (guarded) {
      const held = `${formatBytes(this.liveBytes)} in use, ${formatBytes(this.freeBytes)} kept for reuse`;
      this.device.popErrorScope().then((error) => {
        if (!error) return;
        this.#refused.add(memory);
        this.onError(
          new OutOfMemoryError(
            `${label}: needs ${formatBytes(size)}, the device is full (${held}); use a smaller batch or K`,
          ),
        );
        this.onFull();
      }, this.onError);
    }
    this.peakBytes = Math.max(this.peakBytes, this.liveBytes + this.freeBytes + size);
    return memory;
  }
}

/** Multiples of 256 B up to 4 KiB, then eight classes an octave: at most 12.5 % is wasted. */
export function sizeClass(bytes: number): number {
  const step = bytes <= 4096 ? 256 : 2 ** (Math.floor(Math.log2(bytes)) - 3);
  return Math.max(256, Math.ceil(bytes / step) * step);
}
